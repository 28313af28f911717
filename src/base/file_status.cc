#include "base/file_status.h"

#include <unistd.h>

namespace nbdinetd {

int FileStatus(int fd, struct stat* st) {
#ifdef NBDINETD_HAS_FSTAT_CALL
  return static_cast<int>(syscall(SYS_fstat, fd, st));
#else
  return fstat(fd, st);
#endif
}

}  // namespace nbdinetd
