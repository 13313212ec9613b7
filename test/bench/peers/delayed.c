// A file server that answers each request after a time, of files and of pages of the listing:
// delayed DELAY_MS LIST_DELAY_MS BODIES BODY_BYTES PAGE_SIZE
// BODIES holds one body after the other; GET /get/file-NNNNNNN.bin is answered with one of them, /list-N lists the first N,
// /status tells what nginx's stub_status tells. Prints its port; ends when its input does.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST_BYTES_MAX = 4096, NAME_BYTES = 19 };

struct connection {
  int socket;
  int closed;
  size_t bytes;
  double due_ms;
  struct connection *next;
  char request[REQUEST_BYTES_MAX + 1];
};

static const char *bodies;
static long files, body_bytes, page_size, requests, connections;
// Those that wait, in the order of their requests, which is that of their answers.
static struct queue {
  double delay_ms;
  struct connection *first, **last;
} to_files = {.last = &to_files.first}, to_pages = {.last = &to_pages.first};

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

static void answer(struct connection *c, const char *status, const char *type, const char *body, size_t bytes) {
  char head[128];
  int head_bytes = snprintf(head, sizeof head, "HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %zu\r\n\r\n", status, type, bytes);
  struct iovec parts[2] = {{head, head_bytes}, {(void *)body, bytes}};
  struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
  // A client that is gone is noticed when it is read from next.
  sendmsg(c->socket, &message, MSG_NOSIGNAL);
  c->bytes = 0;
}

static void answer_page(struct connection *c, long from, long listed) {
  long to = from + page_size < listed ? from + page_size : listed;
  char *page = malloc((to - from) * (NAME_BYTES + 3) + 64), *end = page + sprintf(page, "{\"FileNames\":[");
  for (long file = from; file < to; file++) end += sprintf(end, "%s\"file-%07ld.bin\"", file > from ? "," : "", file);
  end += sprintf(end, "]");
  if (to < listed) end += sprintf(end, ",\"NextMarker\":\"file-%07ld.bin\"", to);
  end += sprintf(end, "}");
  answer(c, "200 OK", "application/json", page, end - page);
  free(page);
}

static void answer_now(struct connection *c) {
  long file, listed, from = 0;
  if (sscanf(c->request, "GET /get/file-%ld.bin ", &file) == 1 && file < files) {
    answer(c, "200 OK", "application/octet-stream", bodies + file * body_bytes, body_bytes);
  } else if (sscanf(c->request, "GET /list-%ld?next-marker=file-%ld.bin", &listed, &from) >= 1 && listed <= files) {
    answer_page(c, from, listed);
  } else {
    answer(c, "404 Not Found", "text/plain", "", 0);
  }
}

static void close_now(struct connection *c) {
  close(c->socket);
  free(c);
}

static void take(struct connection *c) {
  ssize_t more = recv(c->socket, c->request + c->bytes, REQUEST_BYTES_MAX - c->bytes, MSG_DONTWAIT);
  if (more < 0 && errno == EAGAIN) return;
  if (more <= 0) {
    // One that waits for its answer is still in the queue.
    if (c->due_ms == 0) return close_now(c);
    c->closed = 1;
    shutdown(c->socket, SHUT_RDWR);
    return;
  }
  c->bytes += more;
  c->request[c->bytes] = 0;
  if (!strstr(c->request, "\r\n\r\n")) return;
  requests++;
  if (strncmp(c->request, "GET /status ", 12) == 0) {
    char status[128];
    int bytes = snprintf(status, sizeof status, "server accepts handled requests\n %ld %ld %ld \n", connections, connections, requests);
    return answer(c, "200 OK", "text/plain", status, bytes);
  }
  struct queue *queue = strncmp(c->request, "GET /list", 9) == 0 ? &to_pages : &to_files;
  c->due_ms = now_ms() + queue->delay_ms;
  c->next = NULL;
  *queue->last = c;
  queue->last = &c->next;
}

static void answer_due(struct queue *queue, double now) {
  while (queue->first && queue->first->due_ms <= now) {
    struct connection *c = queue->first;
    queue->first = c->next;
    if (!queue->first) queue->last = &queue->first;
    c->due_ms = 0;
    if (c->closed) close_now(c);
    else answer_now(c);
  }
}

// How long until the first of them is due; less than 0: there is none.
static int wait_ms(double now) {
  double due = INFINITY;
  if (to_files.first) due = to_files.first->due_ms;
  if (to_pages.first && to_pages.first->due_ms < due) due = to_pages.first->due_ms;
  return isinf(due) ? -1 : due <= now ? 0 : (int)(due - now) + 1;
}

static void accept_all(int listener, int poll) {
  for (int socket; (socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0; connections++) {
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    struct connection *c = calloc(1, sizeof *c);
    c->socket = socket;
    epoll_ctl(poll, EPOLL_CTL_ADD, socket, &(struct epoll_event){.events = EPOLLIN | EPOLLET, .data.ptr = c});
  }
}

int main(int argc, char **argv) {
  if (argc < 6) return 2;
  to_files.delay_ms = atof(argv[1]);
  to_pages.delay_ms = atof(argv[2]);
  body_bytes = atol(argv[4]);
  page_size = atol(argv[5]);
  int file = open(argv[3], O_RDONLY | O_CLOEXEC);
  struct stat stat;
  if (file < 0 || fstat(file, &stat) != 0) return perror(argv[3]), 1;
  files = stat.st_size / body_bytes;
  bodies = mmap(NULL, stat.st_size, PROT_READ, MAP_SHARED, file, 0);
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  if (bind(listener, (struct sockaddr *)&address, size) != 0 || listen(listener, 65535) != 0) return perror("listen"), 1;
  getsockname(listener, (struct sockaddr *)&address, &size);
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);
  int poll = epoll_create1(EPOLL_CLOEXEC);
  static struct connection input, listening;
  epoll_ctl(poll, EPOLL_CTL_ADD, 0, &(struct epoll_event){.events = EPOLLIN, .data.ptr = &input});
  epoll_ctl(poll, EPOLL_CTL_ADD, listener, &(struct epoll_event){.events = EPOLLIN, .data.ptr = &listening});
  struct epoll_event events[1024];
  for (;;) {
    int ready = epoll_wait(poll, events, 1024, wait_ms(now_ms()));
    for (int i = 0; i < ready; i++) {
      struct connection *c = events[i].data.ptr;
      if (c == &input) return 0;
      if (c == &listening) accept_all(listener, poll);
      else take(c);
    }
    answer_due(&to_files, now_ms());
    answer_due(&to_pages, now_ms());
  }
}
