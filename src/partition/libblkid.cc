#include "partition/libblkid.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"

namespace nbdinetd {
namespace {

template <typename Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

bool FindAll(void* library, LibBlkid* functions) {
  return library != nullptr
#define NBDINETD_FIND(name) &&Find(library, #name, &functions->name)
         NBDINETD_LIBBLKID_FUNCTIONS(NBDINETD_FIND)
#undef NBDINETD_FIND
      ;
}

}  // namespace

absl::StatusOr<LibBlkid> LibBlkid::Load() {
  LibBlkid functions;
  if (FindAll(dlopen("libblkid.so.1", RTLD_NOW | RTLD_LOCAL), &functions)) {
    return functions;
  }
  const char* error = dlerror();
  return absl::FailedPreconditionError(
      absl::StrCat(error == nullptr ? "no error" : error));
}

}  // namespace nbdinetd
