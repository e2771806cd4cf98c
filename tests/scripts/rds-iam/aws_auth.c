/* AWSAuthenticationPlugin for a test MySQL server.

   A stand-in for the plugin of that name on Amazon RDS: users are made with the same statement, and a client is asked
   for its token in the same way (mysql_clear_password). Whether the token is good is for a program to say:

       $RDS_IAM_VERIFIER check $RDS_IAM_CONFIG USER    the token on standard input; 0 lets USER in

   Build it with: cc -shared -fPIC -O1 -o aws_auth.so aws_auth.c
   No headers of MySQL are needed: what the server and a plugin agree on is declared below. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* The declarations of mysql/plugin.h (interface 0x010B) and mysql/plugin_auth.h (interface 0x0201). The order and the
   types are the server's; only the names are ours to choose. */

struct channel {
  int (*read_packet)(struct channel *, unsigned char **packet);
  int (*write_packet)(struct channel *, const unsigned char *packet, int length);
};

struct login { /* more fields follow, of no use here */
  char *user_name;
  unsigned user_name_length;
  const char *auth_string;
  unsigned long auth_string_length;
  char authenticated_as[97];
  char external_user[512];
  int password_used;
};

struct auth_handler {
  int interface_version;
  const char *client_plugin;
  int (*authenticate)(struct channel *, struct login *);
  int (*generate_string)(char *out, unsigned *out_length, const char *in, unsigned in_length);
  int (*validate_string)(char *string, unsigned length);
  int (*set_salt)(const char *password, unsigned length, unsigned char *salt, unsigned char *salt_length);
  unsigned long flags;
  int (*compare_password)(const char *, unsigned long, const char *, unsigned long, int *);
};

struct plugin {
  int type;
  void *info;
  const char *name, *author, *description;
  int license;
  int (*init)(void *), (*check_uninstall)(void *), (*deinit)(void *);
  unsigned version;
  void *status_variables, **system_variables, *reserved;
  unsigned long flags;
};

enum { ACCEPTED = -1, REFUSED = 0 };     /* CR_OK, CR_ERROR */
enum { AUTHENTICATION_PLUGIN = 7, GPL = 1 };

extern char **environ;

/* Starts the verifier with `input` as its standard input. The server's threads block signals that a program of its own
   does not expect to be blocked. */
static int start(pid_t *pid, const char *program, char *const arguments[], int input) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  sigset_t none;
  sigemptyset(&none);
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  int error = posix_spawn(pid, program, &actions, &attributes, arguments, environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  return error;
}

static int authenticate(struct channel *channel, struct login *login) {
  unsigned char *token;
  int length = channel->read_packet(channel, &token), ends[2];
  char *verifier = getenv("RDS_IAM_VERIFIER"), *config = getenv("RDS_IAM_CONFIG");
  if (length < 0 || !verifier || !config || !login->user_name) return REFUSED;
  if (pipe2(ends, O_CLOEXEC)) return REFUSED;
  login->password_used = 1; /* a refusal says "using password: YES" */

  pid_t pid;
  char *arguments[] = {verifier, "check", config, login->user_name, NULL};
  int error = start(&pid, verifier, arguments, ends[0]);
  close(ends[0]);
  if (error) {
    close(ends[1]);
    return REFUSED;
  }
  /* The server ignores SIGPIPE: a verifier that does not read to the end ends this loop. */
  for (ssize_t sent = 0, n; sent < length; sent += n) {
    n = write(ends[1], token + sent, length - sent);
    if (n < 0 && errno == EINTR) n = 0;
    if (n < 0) break;
  }
  close(ends[1]);
  int status;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return REFUSED;
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? ACCEPTED : REFUSED;
}

/* Nothing is stored for a user: the text after AS ('RDS') is ignored. */
static int generate_string(char *out, unsigned *out_length, const char *in, unsigned in_length) {
  (void)out, (void)in, (void)in_length;
  *out_length = 0;
  return 0;
}

static int validate_string(char *string, unsigned length) {
  (void)string, (void)length;
  return 0;
}

static int set_salt(const char *password, unsigned length, unsigned char *salt, unsigned char *salt_length) {
  (void)password, (void)length, (void)salt;
  *salt_length = 0;
  return 0;
}

static struct auth_handler handler = {
  0x0201, "mysql_clear_password", authenticate, generate_string, validate_string, set_salt, 0, NULL,
};

/* The symbols that the server loads. */
int _mysql_plugin_interface_version_ = 0x010B;
int _mysql_sizeof_struct_st_plugin_ = sizeof(struct plugin);
struct plugin _mysql_plugin_declarations_[] = {
  {AUTHENTICATION_PLUGIN, &handler, "AWSAuthenticationPlugin", "Darkroom's tests", "stand-in for RDS IAM", GPL,
   NULL, NULL, NULL, 0x0100, NULL, NULL, NULL, 0},
  {0},
};
