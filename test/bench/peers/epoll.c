// A limit, not a tool: GET /get/file-NNNNNNN.bin over some connections, one request at a time on each, with epoll.
// epoll PORT FILES CONNECTIONS fetch | PORT FILES CONNECTIONS write|rename FOLDER
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { ANSWER_BYTES_MAX = 65536 };

struct connection {
  int socket;
  long file;
  size_t bytes;
  char answer[ANSWER_BYTES_MAX + 1];
};

static long files, started, done;
static int writes, renames;

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void ask(struct connection *c) {
  char request[128];
  c->file = started++;
  c->bytes = 0;
  int length = snprintf(request, sizeof request, "GET /get/file-%07ld.bin HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", c->file);
  if (write(c->socket, request, length) != length) fail("write to the server");
}

// Into the folder that is the working directory.
static void store(long file, const char *body, size_t bytes) {
  char name[64], temporary[64];
  snprintf(name, sizeof name, "file-%07ld.bin", file);
  snprintf(temporary, sizeof temporary, ".tmp-%07ld", file);
  int to = open(renames ? temporary : name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (to < 0) fail(name);
  if (write(to, body, bytes) != (ssize_t)bytes) fail(name);
  close(to);
  if (renames && rename(temporary, name) != 0) fail(name);
}

static void take(struct connection *c) {
  ssize_t more = read(c->socket, c->answer + c->bytes, ANSWER_BYTES_MAX - c->bytes);
  if (more < 0 && errno == EAGAIN) return;
  if (more <= 0) fail("read from the server");
  c->bytes += more;
  c->answer[c->bytes] = 0;
  char *head_end = strstr(c->answer, "\r\n\r\n");
  if (!head_end) return;
  char *length = strcasestr(c->answer, "\r\ncontent-length:");
  if (strncmp(c->answer, "HTTP/1.1 200 ", 13) != 0 || !length || length > head_end) {
    fprintf(stderr, "not an answer as expected: %.100s\n", c->answer);
    exit(1);
  }
  size_t body_bytes = strtoul(length + 17, NULL, 10);
  char *body = head_end + 4;
  if (c->bytes < (size_t)(body - c->answer) + body_bytes) return;
  if (writes) store(c->file, body, body_bytes);
  done++;
  if (started < files) ask(c);
}

int main(int argc, char **argv) {
  if (argc < 5) return 2;
  files = atol(argv[2]);
  int connections = atoi(argv[3]);
  renames = strcmp(argv[4], "rename") == 0;
  writes = renames || strcmp(argv[4], "write") == 0;
  if (writes && chdir(argv[5]) != 0) fail(argv[5]);
  struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
  inet_pton(AF_INET, "127.0.0.1", &server.sin_addr);
  int poll = epoll_create1(EPOLL_CLOEXEC);
  for (int i = 0; i < connections && started < files; i++) {
    struct connection *c = malloc(sizeof *c);
    c->socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(c->socket, (struct sockaddr *)&server, sizeof server) != 0) fail("connect");
    setsockopt(c->socket, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    fcntl(c->socket, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, c->socket, &event) != 0) fail("epoll_ctl");
    ask(c);
  }
  struct epoll_event events[256];
  while (done < files) {
    int ready = epoll_wait(poll, events, 256, -1);
    for (int i = 0; i < ready; i++) take(events[i].data.ptr);
  }
  return 0;
}
