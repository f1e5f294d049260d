/* c-ares: ares_getaddrinfo, ares_getnameinfo, and ares_search for SRV. */
#include <ares.h>
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static char *lines[1024];
static size_t count;

static void add(const char *text) {
  if (count < 1024) lines[count++] = strdup(text);
}

static void print_all(int status) {
  if (status == ARES_ENOTFOUND || status == ARES_ENODATA) count = 0;
  else if (status != ARES_SUCCESS) {
    printf("!%s\n", ares_strerror(status));
    return;
  }
  qsort(lines, count, sizeof *lines, by_text);
  for (size_t i = 0; i < count; i++) printf("%s%s", i ? " " : "", lines[i]);
  printf(count ? "\n" : "-\n");
}

static void on_addresses(void *arg, int status, int timeouts, struct ares_addrinfo *result) {
  for (struct ares_addrinfo_node *at = result ? result->nodes : NULL; at; at = at->ai_next) {
    char text[INET6_ADDRSTRLEN];
    const void *address = at->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)at->ai_addr)->sin_addr
                                                   : (void *)&((struct sockaddr_in6 *)at->ai_addr)->sin6_addr;
    add(inet_ntop(at->ai_family, address, text, sizeof text));
  }
  if (result) ares_freeaddrinfo(result);
  print_all(status);
}

static void on_name(void *arg, int status, int timeouts, char *node, char *service) {
  if (node) add(node);
  print_all(status);
}

static void on_message(void *arg, int status, int timeouts, unsigned char *message, int length) {
  struct ares_srv_reply *list = NULL;
  if (status == ARES_SUCCESS) status = ares_parse_srv_reply(message, length, &list);
  for (struct ares_srv_reply *at = list; at; at = at->next) {
    char text[300];
    snprintf(text, sizeof text, "%s:%d", at->host, at->port);
    add(text);
  }
  if (list) ares_free_data(list);
  print_all(status);
}

static void wait_for(ares_channel channel) {
  for (;;) {
    fd_set readers, writers;
    FD_ZERO(&readers);
    FD_ZERO(&writers);
    int highest = ares_fds(channel, &readers, &writers);
    if (!highest) return;
    struct timeval time, *timeout = ares_timeout(channel, NULL, &time);
    select(highest, &readers, &writers, NULL, timeout);
    ares_process(channel, &readers, &writers);
  }
}

int main(int argc, char **argv) {
  ares_channel channel;
  ares_library_init(ARES_LIB_INIT_ALL);
  if (ares_init(&channel) != ARES_SUCCESS) return 1;
  for (int i = 1; i < argc; i++) {
    printf("%s\t", argv[i]);
    count = 0;
    char *value = strchr(argv[i], '=') + 1;
    if (!strncmp(argv[i], "host=", 5)) {
      struct ares_addrinfo_hints hints = {.ai_family = AF_UNSPEC, .ai_flags = ARES_AI_NOSORT};
      ares_getaddrinfo(channel, value, NULL, &hints, on_addresses, NULL);
    } else if (!strncmp(argv[i], "srv=", 4)) {
      ares_search(channel, value, ns_c_in, ns_t_srv, on_message, NULL);
    } else {
      struct sockaddr_in at = {.sin_family = AF_INET};
      inet_pton(AF_INET, value, &at.sin_addr);
      int flags = ARES_NI_LOOKUPHOST | ARES_NI_NAMEREQD;
      ares_getnameinfo(channel, (struct sockaddr *)&at, sizeof at, flags, on_name, NULL);
    }
    wait_for(channel);
    fflush(stdout);
  }
  ares_destroy(channel);
}
