// Maps the system's errno values to the specification's error values.
#ifndef NBDINETD_PROTOCOL_NBD_ERROR_H_
#define NBDINETD_PROTOCOL_NBD_ERROR_H_

#include "protocol/nbd.h"

namespace nbdinetd {

// The error value for `error_number` ("Error values"). An errno that the
// specification doesn't name becomes NBD_EIO: the request was valid, and the
// storage failed.
NbdError NbdErrorOf(int error_number);

}  // namespace nbdinetd

#endif  // NBDINETD_PROTOCOL_NBD_ERROR_H_
