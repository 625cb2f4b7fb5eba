// clock COMMAND [ARG...] : runs it with its input and output at /dev/null, prints the wall milliseconds from exec to exit, and
// ends with its exit code. Small, so that what is measured is the command and not the fork of a large interpreter.
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

int main(int argc, char **argv) {
  if (argc < 2) return 125;
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, 1, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&files, 2, "/dev/null", O_WRONLY, 0);
  struct timespec begin, end;
  pid_t child;
  int status;
  clock_gettime(CLOCK_MONOTONIC, &begin);
  if (posix_spawnp(&child, argv[1], &files, NULL, argv + 1, environ)) return 127;
  if (waitpid(child, &status, 0) != child) return 125;
  clock_gettime(CLOCK_MONOTONIC, &end);
  printf("%.3f\n", (end.tv_sec - begin.tv_sec) * 1e3 + (end.tv_nsec - begin.tv_nsec) / 1e6);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
