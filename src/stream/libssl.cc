#include "stream/libssl.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"

namespace nbdinetd {
namespace {

// The version of the headers that nbdinetd was compiled with.
#define NBDINETD_TEXT_OF(x) #x
#define NBDINETD_TEXT(x) NBDINETD_TEXT_OF(x)
constexpr char kLibrary[] = "libssl.so." NBDINETD_TEXT(OPENSSL_SHLIB_VERSION);

template <typename Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

// dlsym() also searches libcrypto, a dependency of libssl.
bool FindAll(void* library, LibSsl* functions) {
  return library != nullptr
#define NBDINETD_FIND(name) &&Find(library, #name, &functions->name)
         NBDINETD_LIBSSL_FUNCTIONS(NBDINETD_FIND)
#undef NBDINETD_FIND
      ;
}

absl::Status Load(LibSsl* functions) {
  if (!FindAll(dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL), functions)) {
    const char* error = dlerror();
    return absl::FailedPreconditionError(
        absl::StrCat("failed to load OpenSSL, which TLS needs: ",
                     error == nullptr ? "no error" : error));
  }
  // Reads the system's configuration, which may restrict the algorithms.
  // Nothing is cleaned up at exit, since the process ends anyway.
  if (functions->OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, nullptr) != 1) {
    return absl::FailedPreconditionError(
        "failed to initialize OpenSSL; is its openssl.cnf in order?");
  }
  // Seeds the random number generator of this process.
  unsigned char byte;
  if (functions->RAND_bytes(&byte, 1) != 1) {
    return absl::FailedPreconditionError(
        "OpenSSL failed to seed its random number generator");
  }
  return absl::OkStatus();
}

// Written only once, by Get().
LibSsl& Table() {
  static LibSsl functions;
  return functions;
}

}  // namespace

absl::StatusOr<const LibSsl*> LibSsl::Get() {
  static bool loaded = false;
  if (!loaded) {
    if (absl::Status status = Load(&Table()); !status.ok()) return status;
    loaded = true;
  }
  return &Table();
}

const LibSsl& LibSsl::Loaded() { return Table(); }

}  // namespace nbdinetd
