/* A PKCS#11 module that is SoftHSM2 until a file beside it says otherwise: its own path, and what follows the dot.
 *   .stall     calls don't return while it is there
 *   .gone      the device is removed
 *   .down      C_Encrypt and C_Decrypt fail with what SoftHSM2 also says of a wrong tag
 *   .throttle  as many calls are turned away as it is long
 *   .iv        the token makes the IV, and takes none but zeros
 *   .stale     sessions from before it are invalid
 *   .lax       the token drops associated data
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef unsigned long rv;
enum { OK = 0, GENERAL_ERROR = 0x5, DEVICE_MEMORY = 0x31, DEVICE_REMOVED = 0x32, SESSION_INVALID = 0xb3, PARAM_INVALID = 0x71, AES_GCM = 0x1087 };
enum { open_session = 12, find_init = 26, encrypt_init = 29, encrypt = 30, decrypt_init = 33, decrypt = 34 }; /* places in CK_FUNCTION_LIST */

struct list { unsigned char version[2]; void *f[68]; };
struct mechanism { rv type; void *parameter; rv length; };
struct gcm { unsigned char *iv; rv iv_len, iv_bits; unsigned char *ad; rv ad_len, tag_bits; };

static struct list *softhsm, ours;
static char self[4096];

static const char *file(const char *name) {
	static _Thread_local char path[4200];
	snprintf(path, sizeof path, "%s.%s", self, name);
	return path;
}

static int is(const char *name) { return access(file(name), F_OK) == 0; }

static int turned_away(void) {
	struct stat s;
	int turned = 0, fd = open(file("throttle"), O_RDWR);
	if (fd >= 0 && fstat(fd, &s) == 0 && s.st_size > 0) turned = ftruncate(fd, s.st_size - 1) == 0;
	if (fd >= 0) close(fd);
	return turned;
}

static rv fault(void) {
	while (is("stall")) usleep(1000);
	if (is("gone")) return DEVICE_REMOVED;
	return turned_away() ? DEVICE_MEMORY : OK;
}

static _Atomic char fresh[1 << 16];

static rv our_open_session(rv slot, rv flags, void *application, void *notify, rv *s) {
	rv (*f)(rv, rv, void *, void *, rv *) = softhsm->f[open_session];
	rv e = f(slot, flags, application, notify, s);
	if (!e) fresh[*s % sizeof fresh] = is("stale");
	return e;
}

static rv our_find_init(rv s, void *template, rv n) {
	rv (*f)(rv, void *, rv) = softhsm->f[find_init];
	rv e = fault();
	if (!e && is("stale") && !fresh[s % sizeof fresh]) e = SESSION_INVALID;
	return e ? e : f(s, template, n);
}

static rv run(int which, rv s, void *in, rv in_len, void *out, rv *out_len) {
	rv (*f)(rv, void *, rv, void *, rv *) = softhsm->f[which];
	rv e = fault();
	if (!e && is("down")) e = GENERAL_ERROR;
	return e ? e : f(s, in, in_len, out, out_len);
}

static rv our_encrypt(rv s, void *in, rv n, void *out, rv *m) { return run(encrypt, s, in, n, out, m); }
static rv our_decrypt(rv s, void *in, rv n, void *out, rv *m) { return run(decrypt, s, in, n, out, m); }

static rv init(int which, rv s, struct mechanism *m, rv key) {
	rv (*f)(rv, struct mechanism *, rv) = softhsm->f[which];
	struct gcm *g = m->parameter;
	if (m->type == AES_GCM && is("lax")) g->ad_len = 0;
	if (m->type == AES_GCM && which == encrypt_init && is("iv")) {
		for (rv i = 0; i < g->iv_len; i++) if (g->iv[i]) return PARAM_INVALID;
		if (getentropy(g->iv, g->iv_len)) return GENERAL_ERROR;
	}
	return f(s, m, key);
}

static rv our_encrypt_init(rv s, struct mechanism *m, rv key) { return init(encrypt_init, s, m, key); }
static rv our_decrypt_init(rv s, struct mechanism *m, rv key) { return init(decrypt_init, s, m, key); }

rv C_GetFunctionList(struct list **out) {
	Dl_info info;
	void *library = dlopen(SOFTHSM, RTLD_NOW);
	rv (*get)(struct list **) = library ? dlsym(library, "C_GetFunctionList") : NULL;
	if (!get || get(&softhsm) || !dladdr((void *)C_GetFunctionList, &info)) return GENERAL_ERROR;
	strncpy(self, info.dli_fname, sizeof self - 1);
	ours = *softhsm;
	ours.f[open_session] = our_open_session;
	ours.f[find_init] = our_find_init;
	ours.f[encrypt_init] = our_encrypt_init;
	ours.f[encrypt] = our_encrypt;
	ours.f[decrypt_init] = our_decrypt_init;
	ours.f[decrypt] = our_decrypt;
	*out = &ours;
	return OK;
}
