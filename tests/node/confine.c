// Runs a program with a filter of system calls, as a container runtime does.
// usage: confine LIST PROGRAM ARGUMENT...
// The list has a line for each rule: an action (0: allowed, else the error number of the refused call), the name of the
// call (* for all that no rule names, in the first line), and any number of conditions: ARGUMENT OPERATOR VALUE SECOND,
// with libseccomp's number of the operator.
#include <errno.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fail(const char *what, int error) {
  fprintf(stderr, "confine: %s: %s\n", what, strerror(error));
  return 1;
}

int main(int count, char **words) {
  if (count < 3) return fail("no program", EINVAL);
  FILE *list = fopen(words[1], "r");
  if (!list) return fail(words[1], errno);
  scmp_filter_ctx filter = NULL;
  char line[4096];
  while (fgets(line, sizeof line, list)) {
    unsigned error, argument, operator;
    unsigned long long value, second;
    char name[64];
    int used, more;
    if (sscanf(line, "%u %63s%n", &error, name, &used) != 2) return fail("a rule", EINVAL);
    unsigned action = error ? SCMP_ACT_ERRNO(error) : SCMP_ACT_ALLOW;
    if (!strcmp(name, "*")) {
      filter = seccomp_init(action);
      continue;
    }
    struct scmp_arg_cmp conditions[6];
    unsigned found = 0;
    while (found < 6 && sscanf(line + used, "%u %u %llu %llu%n", &argument, &operator, &value, &second, &more) == 4) {
      conditions[found++] = (struct scmp_arg_cmp){argument, operator, value, second};
      used += more;
    }
    int call = seccomp_syscall_resolve_name(name);
    // Calls of other kernels and machines.
    if (call == __NR_SCMP_ERROR) continue;
    int result = seccomp_rule_add_array(filter, action, call, found, conditions);
    if (result && result != -EEXIST && result != -EDOM) return fail(name, -result);
  }
  int result = filter ? seccomp_load(filter) : -EINVAL;
  if (result) return fail("the filter", -result);
  execv(words[2], words + 2);
  return fail(words[2], errno);
}
