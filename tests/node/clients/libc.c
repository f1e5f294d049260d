/* The resolver of the C library: getaddrinfo, getnameinfo, and res_search for SRV. Compiled for glibc and for musl. */
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <netdb.h>
#include <netinet/in.h>
#include <resolv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static char *lines[1024];
static size_t count;

static void add(const char *text) {
  if (count < 1024) lines[count++] = strdup(text);
}

static void print_all(void) {
  qsort(lines, count, sizeof *lines, by_text);
  for (size_t i = 0; i < count; i++) printf("%s%s", i ? " " : "", lines[i]);
  if (!count) printf("-");
  printf("\n");
}

static void host(const char *name) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
  int error = getaddrinfo(name, NULL, &hints, &list);
  if (error == EAI_NONAME || error == -5 /* EAI_NODATA */) {
    print_all();
    return;
  }
  if (error) {
    printf("!%s\n", gai_strerror(error));
    return;
  }
  for (struct addrinfo *at = list; at; at = at->ai_next) {
    char text[INET6_ADDRSTRLEN];
    const void *address = at->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)at->ai_addr)->sin_addr
                                                   : (void *)&((struct sockaddr_in6 *)at->ai_addr)->sin6_addr;
    add(inet_ntop(at->ai_family, address, text, sizeof text));
  }
  freeaddrinfo(list);
  print_all();
}

static void ptr(const char *address) {
  struct sockaddr_in at = {.sin_family = AF_INET};
  char name[NI_MAXHOST];
  inet_pton(AF_INET, address, &at.sin_addr);
  int error = getnameinfo((struct sockaddr *)&at, sizeof at, name, sizeof name, NULL, 0, NI_NAMEREQD);
  if (error == EAI_NONAME) printf("-\n");
  else if (error) printf("!%s\n", gai_strerror(error));
  else printf("%s\n", name);
}

static void srv(const char *name) {
  static unsigned char answer[65535];
  int length = res_search(name, ns_c_in, ns_t_srv, answer, sizeof answer);
  ns_msg message;
  if (length < 0) {
    if (h_errno == HOST_NOT_FOUND || h_errno == NO_DATA) printf("-\n");
    else printf("!h_errno %d\n", h_errno);
    return;
  }
  if (ns_initparse(answer, length, &message) < 0) {
    printf("!the message cannot be parsed\n");
    return;
  }
  for (int i = 0; i < ns_msg_count(message, ns_s_an); i++) {
    ns_rr record;
    char target[NS_MAXDNAME], text[NS_MAXDNAME + 8];
    if (ns_parserr(&message, ns_s_an, i, &record) < 0 || ns_rr_type(record) != ns_t_srv) continue;
    const unsigned char *data = ns_rr_rdata(record);
    if (dn_expand(answer, answer + length, data + 6, target, sizeof target) < 0) continue;
    snprintf(text, sizeof text, "%s:%d", target, ns_get16(data + 4));
    add(text);
  }
  print_all();
}

int main(int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    printf("%s\t", argv[i]);
    count = 0;
    char *value = strchr(argv[i], '=') + 1;
    if (!strncmp(argv[i], "host=", 5)) host(value);
    else if (!strncmp(argv[i], "srv=", 4)) srv(value);
    else ptr(value);
    fflush(stdout);
  }
}
