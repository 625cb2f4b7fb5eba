// latency wake SECONDS : sleeps for 1 ms again and again; how late it woke up.
// latency serve PORT : answers every UDP datagram with itself.
// latency ask ADDRESS PORT SECONDS : asks such a server every 2 ms; how long the answers took, and how many questions had none within 1 s.
// Prints "p50 p99 max lost" in microseconds. Static: it runs in a container of busybox.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define MOST 200000
static double taken[MOST];
static int count, lost;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int order(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static int tell(void) {
  if (!count) return 1;
  qsort(taken, count, sizeof *taken, order);
  printf("%.0f %.0f %.0f %d\n", taken[count / 2], taken[(int)(count * 0.99)], taken[count - 1], lost);
  return 0;
}

static struct sockaddr_in at(const char *address, const char *port) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
  inet_pton(AF_INET, address, &to.sin_addr);
  return to;
}

int main(int argc, char **argv) {
  if (argc == 3 && !strcmp(argv[1], "wake")) {
    double end = now() + atof(argv[2]) * 1e6;
    while (now() < end && count < MOST) {
      double begin = now();
      nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
      taken[count++] = now() - begin - 1000;
    }
    return tell();
  }
  int s = socket(AF_INET, SOCK_DGRAM, 0);
  if (argc == 3 && !strcmp(argv[1], "serve")) {
    struct sockaddr_in own = at("0.0.0.0", argv[2]);
    if (bind(s, (void *)&own, sizeof own)) return 1;
    for (;;) {
      char buffer[64];
      struct sockaddr_in from;
      socklen_t len = sizeof from;
      ssize_t n = recvfrom(s, buffer, sizeof buffer, 0, (void *)&from, &len);
      if (n >= 0) sendto(s, buffer, n, 0, (void *)&from, len);
    }
  }
  if (argc == 5 && !strcmp(argv[1], "ask")) {
    struct sockaddr_in to = at(argv[2], argv[3]);
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = 1}, sizeof(struct timeval));
    double end = now() + atof(argv[4]) * 1e6;
    for (int question = 1; now() < end && count < MOST; question++) {
      double begin = now();
      int answer = 0;
      sendto(s, &question, sizeof question, 0, (void *)&to, sizeof to);
      // Late answers to what was given up are passed over.
      while (answer != question && recv(s, &answer, sizeof answer, 0) >= 0) {}
      if (answer == question) taken[count++] = now() - begin; else lost++;
      usleep(2000);
    }
    return tell();
  }
  return 2;
}
