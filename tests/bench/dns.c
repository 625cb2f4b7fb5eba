/* dns SERVER NAME RATE SECONDS : asks a DNS server for the A records of NAME, RATE times a second (0: as fast as answers come, with 64 under
 * way), and says how many answers came, how many were lost, and how long they took. One thread, one socket. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define IDS 65536
static uint64_t sent_at[IDS];
static uint32_t *took;
static size_t answers, room = 1 << 22;

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int by_size(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return x < y ? -1 : x > y;
}

static void take(int s) {
  unsigned char in[2048];
  ssize_t n;
  while ((n = recv(s, in, sizeof in, MSG_DONTWAIT)) >= 12) {
    unsigned id = in[0] << 8 | in[1];
    if (!sent_at[id] || (in[3] & 15) || !in[7]) continue;
    if (answers < room) took[answers] = (uint32_t)((now() - sent_at[id]) / 1000);
    answers++;
    sent_at[id] = 0;
  }
}

int main(int argc, char **argv) {
  if (argc != 5) return fprintf(stderr, "dns SERVER NAME RATE SECONDS\n"), 2;
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(53)};
  if (inet_pton(AF_INET, argv[1], &to.sin_addr) != 1) return 2;
  int s = socket(AF_INET, SOCK_DGRAM, 0), big = 8 << 20;
  setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof big);
  if (connect(s, (struct sockaddr *)&to, sizeof to)) return perror("connect"), 1;
  unsigned char query[300] = {0, 0, 1, 0, 0, 1};
  size_t len = 12;
  for (char *label = strtok(argv[2], "."); label; label = strtok(NULL, ".")) {
    size_t n = strlen(label);
    if (n > 63 || len + n > 270) return 2;
    query[len++] = (unsigned char)n;
    memcpy(query + len, label, n);
    len += n;
  }
  memcpy(query + len, "\0\0\1\0\1", 5);
  len += 5;
  double rate = atof(argv[3]), seconds = atof(argv[4]);
  took = malloc(room * sizeof *took);
  uint64_t begun = now(), end = begun + (uint64_t)(seconds * 1e9), sent = 0, refused = 0;
  for (uint64_t at; (at = now()) < end;) {
    uint64_t due = rate > 0 ? (uint64_t)((double)(at - begun) * rate / 1e9) : answers + 64;
    for (int burst = 0; sent < due && burst < 64; burst++) {
      unsigned id = sent % IDS;
      query[0] = id >> 8;
      query[1] = id & 255;
      sent_at[id] = now();
      if (send(s, query, len, MSG_DONTWAIT) < 0) refused++;
      sent++;
    }
    take(s);
    if (sent >= due || rate <= 0) {
      struct pollfd p = {s, POLLIN, 0};
      struct timespec little = {0, 50000};
      ppoll(&p, 1, &little, NULL);
    }
  }
  for (uint64_t late = now() + 500000000u; now() < late;) {
    struct pollfd p = {s, POLLIN, 0};
    poll(&p, 1, 50);
    take(s);
  }
  double lasted = (double)(end - begun) / 1e9;
  size_t kept = answers < room ? answers : room;
  qsort(took, kept, sizeof *took, by_size);
  size_t p50 = kept / 2, p99 = kept * 99 / 100, p999 = kept * 999 / 1000;
  printf("asked %lu answered %lu lost %lu refused %lu rate %.0f/s p50 %u us p99 %u us p99.9 %u us max %u us\n", (unsigned long)sent, (unsigned long)answers,
         (unsigned long)(sent - answers), (unsigned long)refused, (double)answers / lasted, kept ? took[p50] : 0, kept ? took[p99] : 0,
         kept ? took[p999] : 0, kept ? took[kept - 1] : 0);
  return 0;
}
