// Clients of the API that cost next to nothing, as those of a real service run elsewhere:
// watchers PORT PATH CLIENTS EVERY_MS STREAMS
// Each client GETs PATH once in EVERY_MS over a connection of its own; each stream GETs PATH/events. When its input ends, it
// prints how many events came, then how long each answer took, in ms: from when it should have been asked for.
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER_BYTES_MAX = 65536 };

struct watcher {
  int socket;
  int is_stream, asked;
  // Of a stream: whether its head came, and how much of `mark` came last.
  int begun, matched;
  double due_ms;
  size_t bytes;
  char answer[ANSWER_BYTES_MAX + 1];
};

static const char mark[] = "\nevent: ";
static const char *path;
static double every_ms, *took_ms;
static size_t answers, room;
static long events;

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

static void fail(const char *what, const char *detail) {
  fprintf(stderr, "GET %s: %s %.40s\n", path, what, detail);
  exit(1);
}

static void ask(struct watcher *w) {
  char request[512];
  int bytes = snprintf(request, sizeof request, "GET %s%s HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", path, w->is_stream ? "/events" : "");
  if (send(w->socket, request, bytes, MSG_NOSIGNAL) != bytes) fail("cannot be sent:", strerror(errno));
  w->asked = 1;
}

// A head that says 200; where it ends, NULL: not yet.
static char *head_end(struct watcher *w) {
  char *end = strstr(w->answer, "\r\n\r\n");
  if (end && strncmp(w->answer, "HTTP/1.1 200 ", 13) != 0) fail("answered", w->answer);
  return end;
}

static void take_answer(struct watcher *w, double now) {
  char *end = head_end(w);
  if (!end) return;
  char *length = strcasestr(w->answer, "\r\ncontent-length: ");
  if (!length || length > end) fail("answered without a length:", w->answer);
  if (w->answer + w->bytes < end + 4 + atol(length + 18)) return;
  if (answers == room) took_ms = realloc(took_ms, (room = 2 * room + 1024) * sizeof *took_ms);
  took_ms[answers++] = now - w->due_ms;
  w->due_ms += every_ms;
  w->bytes = w->asked = 0;
}

static void count_events(struct watcher *w, const char *bytes, size_t count) {
  for (size_t i = 0; i < count; i++) {
    w->matched = bytes[i] == mark[w->matched] ? w->matched + 1 : bytes[i] == '\n';
    if (mark[w->matched]) continue;
    events++;
    w->matched = 0;
  }
}

// False: the connection was closed.
static int take(struct watcher *w, double now) {
  for (;;) {
    size_t left = ANSWER_BYTES_MAX - w->bytes;
    if (left == 0) fail("answered too much:", w->answer);
    ssize_t more = recv(w->socket, w->answer + w->bytes, left, MSG_DONTWAIT);
    if (more < 0 && errno == EAGAIN) return 1;
    if (more < 0) fail("broke off:", strerror(errno));
    if (more == 0) return 0;
    char *came = w->answer + w->bytes;
    w->bytes += more;
    w->answer[w->bytes] = 0;
    if (!w->is_stream) take_answer(w, now);
    else {
      count_events(w, came, more);
      w->begun = w->begun || head_end(w);
      if (w->begun) w->bytes = 0;
    }
  }
}

// Asks for what is due; how long until the next is.
static int ask_due(struct watcher *clients, int count, double now) {
  double next = now + every_ms;
  for (struct watcher *w = clients; w < clients + count; w++) {
    if (w->asked) continue;
    if (w->due_ms <= now) ask(w);
    else if (w->due_ms < next) next = w->due_ms;
  }
  return (int)(next - now) + 1;
}

int main(int argc, char **argv) {
  if (argc < 6) return 2;
  path = argv[2];
  int clients = atoi(argv[3]), all = clients + atoi(argv[5]);
  every_ms = atof(argv[4]);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct watcher *watchers = calloc(all, sizeof *watchers);
  int poll = epoll_create1(EPOLL_CLOEXEC);
  epoll_ctl(poll, EPOLL_CTL_ADD, 0, &(struct epoll_event){.events = EPOLLIN});
  double begin = now_ms();
  for (int i = 0; i < all; i++) {
    struct watcher *w = watchers + i;
    w->socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    w->is_stream = i >= clients;
    w->due_ms = begin + every_ms * i / clients;
    if (connect(w->socket, (struct sockaddr *)&address, sizeof address) != 0) fail("cannot connect:", strerror(errno));
    setsockopt(w->socket, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    epoll_ctl(poll, EPOLL_CTL_ADD, w->socket, &(struct epoll_event){.events = EPOLLIN | EPOLLET, .data.ptr = w});
    if (w->is_stream) ask(w);
  }
  struct epoll_event ready[256];
  for (;;) {
    int count = epoll_wait(poll, ready, 256, ask_due(watchers, clients, now_ms()));
    for (int i = 0; i < count; i++) {
      struct watcher *w = ready[i].data.ptr;
      if (!w) {
        printf("%ld\n", events);
        for (size_t n = 0; n < answers; n++) printf("%.3f\n", took_ms[n]);
        return 0;
      }
      // A stream ends with its job.
      if (!take(w, now_ms()) && !w->is_stream) fail("was", "closed");
    }
  }
}
