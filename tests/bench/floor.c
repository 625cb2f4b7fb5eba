/* The least that a container start costs: the same namespaces, limits, overlay and mounts as berth's, in one process and without an
 * agent, a seccomp filter or a log. usage: floor LOWER WORK RUNS [GROUP] : prints microseconds of every run, one a line.
 * GROUP: name of the cgroups to make (v1: below pids and memory; v2: below the root). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void must(long result, const char *what) {
  if (result < 0) {
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    _exit(99);
  }
}
#define MUST(call) must((call), #call)

static double microseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void put(const char *folder, const char *file, const char *value) {
  char path[512];
  snprintf(path, sizeof path, "%s/%s", folder, file);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  must(fd, path);
  must(write(fd, value, strlen(value)), path);
  close(fd);
}

static int overlay(const char *lower, const char *upper, const char *work) {
  int context = syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC);
  MUST(context);
  MUST(syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "lowerdir", lower, 0));
  MUST(syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "upperdir", upper, 0));
  MUST(syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "workdir", work, 0));
  MUST(syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0));
  int root = syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, 0);
  MUST(root);
  close(context);
  return root;
}

/* Process 1 of the container, from its first instruction to its execve. */
static void child(int root, const char *point, int gate, int v1) {
  char byte;
  MUST(read(gate, &byte, 1) == 1 ? 0 : -1);
  if (v1) MUST(unshare(CLONE_NEWCGROUP));
  MUST(mount(0, "/", 0, MS_REC | MS_PRIVATE, 0));
  MUST(syscall(SYS_move_mount, root, "", AT_FDCWD, point, MOVE_MOUNT_F_EMPTY_PATH));
  MUST(chdir(point));
  unsigned long plain = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  MUST(mount("proc", "proc", "proc", plain, 0));
  MUST(mount("sysfs", "sys", "sysfs", plain | MS_RDONLY, 0));
  MUST(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
  static const struct { const char *path; int major, minor; } nodes[] = {
      {"dev/null", 1, 3}, {"dev/zero", 1, 5}, {"dev/full", 1, 7}, {"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0}};
  umask(0);
  for (unsigned n = 0; n < sizeof nodes / sizeof *nodes; n++)
    MUST(mknod(nodes[n].path, S_IFCHR | 0666, makedev(nodes[n].major, nodes[n].minor)));
  MUST(mkdir("dev/pts", 0755));
  MUST(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"));
  MUST(mkdir("dev/shm", 01777));
  MUST(mount("shm", "dev/shm", "tmpfs", plain, "mode=1777,size=65536k"));
  MUST(mkdir("dev/mqueue", 0755));
  MUST(mount("mqueue", "dev/mqueue", "mqueue", plain, 0));
  static const char *links[][2] = {{"pts/ptmx", "dev/ptmx"}, {"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"},
                                   {"/proc/self/fd/1", "dev/stdout"}, {"/proc/self/fd/2", "dev/stderr"}};
  for (int n = 0; n < 5; n++) MUST(symlink(links[n][0], links[n][1]));
  MUST(syscall(SYS_pivot_root, ".", "."));
  MUST(umount2(".", MNT_DETACH));
  MUST(chdir("/"));
  static const char *locked[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
  for (int n = 0; n < 5; n++)
    if (!mount(locked[n], locked[n], 0, MS_BIND | MS_REC, 0))
      MUST(mount(0, locked[n], 0, MS_BIND | MS_REMOUNT | MS_RDONLY | plain, 0));
  static const char *masked[] = {"/proc/kcore", "/proc/keys", "/proc/timer_list"};
  for (int n = 0; n < 3; n++) mount("/dev/null", masked[n], 0, MS_BIND, 0);
  MUST(sethostname("floor", 5));
  MUST(setsid());
  const uint64_t keep = 0xa80425fb; /* Docker's default set */
  for (int n = 0; n < 41; n++)
    if (!(keep >> n & 1)) prctl(PR_CAPBSET_DROP, n);
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2] = {{(uint32_t)keep, (uint32_t)keep, 0}, {0, 0, 0}};
  MUST(syscall(SYS_capset, &header, data));
  MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  MUST(syscall(SYS_close_range, 3, ~0U, 0));
  char *arguments[] = {"/bin/true", 0}, *environment[] = {"PATH=/bin", 0};
  MUST(execve(arguments[0], arguments, environment));
}

int main(int count, char **argument) {
  if (count < 4) return 2;
  const char *lower = argument[1], *work = argument[2], *group = count > 4 ? argument[4] : "floor";
  int runs = atoi(argument[3]);
  int v1 = access("/sys/fs/cgroup/cgroup.controllers", F_OK) != 0;
  MUST(unshare(CLONE_NEWNS));
  MUST(mount(0, "/", 0, MS_REC | MS_PRIVATE, 0));
  char point[300], upper[300], workdir[300], cgroups[2][300];
  snprintf(point, sizeof point, "%s/root", work);
  mkdir(work, 0755), mkdir(point, 0755);
  for (int run = 0; run < runs; run++) {
    double start = microseconds();
    snprintf(upper, sizeof upper, "%s/upper%d", work, run);
    snprintf(workdir, sizeof workdir, "%s/work%d", work, run);
    MUST(mkdir(upper, 0755));
    MUST(mkdir(workdir, 0755));
    int root = overlay(lower, upper, workdir), cgroup = -1;
    snprintf(cgroups[0], 300, v1 ? "/sys/fs/cgroup/pids/%s-%d" : "/sys/fs/cgroup/%s-%d", group, run);
    snprintf(cgroups[1], 300, "/sys/fs/cgroup/memory/%s-%d", group, run);
    for (int n = 0; n < 1 + v1; n++) MUST(mkdir(cgroups[n], 0755));
    put(cgroups[0], "pids.max", "100");
    put(cgroups[v1], v1 ? "memory.limit_in_bytes" : "memory.max", "268435456");
    if (!v1) MUST(cgroup = open(cgroups[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    int gate[2];
    MUST(pipe2(gate, O_CLOEXEC));
    struct clone_args how = {
        .flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | (v1 ? 0 : CLONE_NEWCGROUP | CLONE_INTO_CGROUP),
        .exit_signal = SIGCHLD, .cgroup = cgroup < 0 ? 0 : cgroup};
    pid_t pid = syscall(SYS_clone3, &how, sizeof how);
    MUST(pid);
    if (!pid) child(root, point, gate[0], v1);
    if (v1) {
      char text[20];
      snprintf(text, sizeof text, "%d", pid);
      for (int n = 0; n < 2; n++) put(cgroups[n], "cgroup.procs", text);
    }
    MUST(write(gate[1], "x", 1));
    close(gate[0]), close(gate[1]);
    int status;
    MUST(waitpid(pid, &status, 0));
    if (status) {
      fprintf(stderr, "floor: the child ended with %x\n", status);
      return 1;
    }
    for (int n = 0; n < 1 + v1; n++) MUST(rmdir(cgroups[n]));
    if (cgroup >= 0) close(cgroup);
    close(root);
    char command[700];
    snprintf(command, sizeof command, "%s/work", workdir);
    rmdir(command);
    snprintf(command, sizeof command, "%s/index", workdir);
    rmdir(command);
    MUST(rmdir(workdir));
    /* The places that the mounts needed were copied up only where they were missing below. */
    rmdir(upper);
    printf("%.0f\n", microseconds() - start);
  }
  rmdir(point);
  return 0;
}
