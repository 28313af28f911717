// From the system's errno to the specification's error values: the one place.
#ifndef NBDINETD_PROTOCOL_NBD_ERROR_H_
#define NBDINETD_PROTOCOL_NBD_ERROR_H_

#include "protocol/nbd.h"

namespace nbdinetd {

// The value that tells a client of `error_number` ("Error values"). An errno
// that the specification doesn't name becomes NBD_EIO: the request was valid,
// and what failed is the storage.
NbdError NbdErrorOf(int error_number);

}  // namespace nbdinetd

#endif  // NBDINETD_PROTOCOL_NBD_ERROR_H_
