// The macro of this name in sd-journal.h would hide the function.
#define SD_JOURNAL_SUPPRESS_LOCATION
#include "base/libsystemd.h"

#include <dlfcn.h>

namespace nbdinetd {
namespace {

template <typename Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

bool Load(LibSystemd* functions) {
  void* library = dlopen("libsystemd.so.0", RTLD_NOW | RTLD_LOCAL);
  return library != nullptr &&
         Find(library, "sd_listen_fds_with_names",
              &functions->listen_fds_with_names) &&
         Find(library, "sd_journal_sendv", &functions->journal_sendv) &&
         Find(library, "sd_notify", &functions->notify) &&
         Find(library, "sd_watchdog_enabled", &functions->watchdog_enabled);
}

}  // namespace

const LibSystemd* LibSystemd::Get() {
  static LibSystemd functions;
  static bool loaded = false;
  if (!loaded) loaded = Load(&functions);
  return loaded ? &functions : nullptr;
}

std::string LibSystemd::Error() {
  const char* error = dlerror();
  return error == nullptr ? "no error" : error;
}

}  // namespace nbdinetd
