// How many files a file system takes from several processes at once, each written into a folder of its own and renamed into
// those that all share: cc -O2 -o renames test/bench/peers/renames.c && ./renames FOLDER PROCESSES FILES SHARED
// FOLDER is new. Each process stores FILES files of 100 bytes, in turn into each of SHARED folders; told are files a second
// and processor time a file.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { FILE_BYTES = 100 };

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void store(int process, long files, int shared) {
  char own[64], temporary[80], name[80], body[FILE_BYTES];
  memset(body, 'x', sizeof body);
  snprintf(own, sizeof own, "own-%d", process);
  if (mkdir(own, 0777) != 0) fail(own);
  snprintf(temporary, sizeof temporary, "%s/put", own);
  for (long file = 0; file < files; file++) {
    snprintf(name, sizeof name, "all/%ld/%d-%07ld.bin", file % shared, process, file);
    int to = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (to < 0 || write(to, body, sizeof body) != sizeof body) fail(temporary);
    close(to);
    if (rename(temporary, name) != 0) fail(name);
  }
}

static double secondsOf(struct timeval time) { return time.tv_sec + time.tv_usec / 1e6; }

int main(int count, char **words) {
  if (count != 5) return fprintf(stderr, "renames FOLDER PROCESSES FILES SHARED\n"), 2;
  int processes = atoi(words[2]);
  long files = atol(words[3]);
  int shared = atoi(words[4]);
  if (mkdir(words[1], 0777) != 0 || chdir(words[1]) != 0 || mkdir("all", 0777) != 0) fail(words[1]);
  for (int folder = 0; folder < shared; folder++) {
    char name[32];
    snprintf(name, sizeof name, "all/%d", folder);
    if (mkdir(name, 0777) != 0) fail(name);
  }
  struct timespec began, ended;
  clock_gettime(CLOCK_MONOTONIC, &began);
  for (int process = 0; process < processes; process++) {
    pid_t child = fork();
    if (child < 0) fail("fork");
    if (child == 0) {
      store(process, files, shared);
      return 0;
    }
  }
  int failed = 0, status;
  while (wait(&status) > 0) failed |= status;
  clock_gettime(CLOCK_MONOTONIC, &ended);
  struct rusage used;
  getrusage(RUSAGE_CHILDREN, &used);
  double seconds = ended.tv_sec - began.tv_sec + (ended.tv_nsec - began.tv_nsec) / 1e9;
  double all = (double)processes * files;
  double busy = secondsOf(used.ru_utime) + secondsOf(used.ru_stime);
  printf("%.0f files/s, %.1f us of processor time a file\n", all / seconds, busy / all * 1e6);
  return failed != 0;
}
