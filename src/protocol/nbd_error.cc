#include "protocol/nbd_error.h"

#include <cerrno>

namespace nbdinetd {

NbdError NbdErrorOf(int error_number) {
  switch (error_number) {
    case 0:
      return NBD_SUCCESS;
    case EPERM:
    case EACCES:
    case EROFS:
      return NBD_EPERM;
    case ENOMEM:
      return NBD_ENOMEM;
    case EINVAL:
      return NBD_EINVAL;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return NBD_ENOSPC;
    default:
      return NBD_EIO;
  }
}

}  // namespace nbdinetd
