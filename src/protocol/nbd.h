// The constants of the NBD protocol, under the specification's names:
// doc/proto.md of the NetworkBlockDevice project, section "Values". Those of
// extended headers are on its branch extension-ext-header; the master branch
// reserves their numbers.
#ifndef NBDINETD_PROTOCOL_NBD_H_
#define NBDINETD_PROTOCOL_NBD_H_

#include <cstddef>
#include <cstdint>

namespace nbdinetd {

// Magic numbers.
inline constexpr uint64_t NBD_MAGIC = 0x4e42444d41474943;     // "NBDMAGIC"
inline constexpr uint64_t NBD_IHAVEOPT = 0x49484156454F5054;  // "IHAVEOPT"
inline constexpr uint64_t NBD_OPT_REPLY_MAGIC = 0x3e889045565a9;
inline constexpr uint32_t NBD_REQUEST_MAGIC = 0x25609513;
inline constexpr uint32_t NBD_SIMPLE_REPLY_MAGIC = 0x67446698;
inline constexpr uint32_t NBD_STRUCTURED_REPLY_MAGIC = 0x668e33ef;
inline constexpr uint32_t NBD_EXTENDED_REQUEST_MAGIC = 0x21e41c71;
inline constexpr uint32_t NBD_EXTENDED_REPLY_MAGIC = 0x6e8a278c;

// Handshake flags and client flags.
inline constexpr uint16_t NBD_FLAG_FIXED_NEWSTYLE = 1 << 0;
inline constexpr uint16_t NBD_FLAG_NO_ZEROES = 1 << 1;
inline constexpr uint32_t NBD_FLAG_C_FIXED_NEWSTYLE = 1 << 0;
inline constexpr uint32_t NBD_FLAG_C_NO_ZEROES = 1 << 1;

// Transmission flags.
inline constexpr uint16_t NBD_FLAG_HAS_FLAGS = 1 << 0;
inline constexpr uint16_t NBD_FLAG_READ_ONLY = 1 << 1;
inline constexpr uint16_t NBD_FLAG_SEND_FLUSH = 1 << 2;
inline constexpr uint16_t NBD_FLAG_SEND_FUA = 1 << 3;
inline constexpr uint16_t NBD_FLAG_ROTATIONAL = 1 << 4;
inline constexpr uint16_t NBD_FLAG_SEND_TRIM = 1 << 5;
inline constexpr uint16_t NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6;
inline constexpr uint16_t NBD_FLAG_SEND_DF = 1 << 7;
inline constexpr uint16_t NBD_FLAG_CAN_MULTI_CONN = 1 << 8;
inline constexpr uint16_t NBD_FLAG_SEND_CACHE = 1 << 10;
inline constexpr uint16_t NBD_FLAG_SEND_FAST_ZERO = 1 << 11;
inline constexpr uint16_t NBD_FLAG_BLOCK_STATUS_PAYLOAD = 1 << 12;

// Option types.
enum NbdOption : uint32_t {
  NBD_OPT_EXPORT_NAME = 1,
  NBD_OPT_ABORT = 2,
  NBD_OPT_LIST = 3,
  NBD_OPT_STARTTLS = 5,
  NBD_OPT_INFO = 6,
  NBD_OPT_GO = 7,
  NBD_OPT_STRUCTURED_REPLY = 8,
  NBD_OPT_LIST_META_CONTEXT = 9,
  NBD_OPT_SET_META_CONTEXT = 10,
  NBD_OPT_EXTENDED_HEADERS = 11,
};

// Option reply types.
enum NbdOptionReply : uint32_t {
  NBD_REP_ACK = 1,
  NBD_REP_SERVER = 2,
  NBD_REP_INFO = 3,
  NBD_REP_META_CONTEXT = 4,
  NBD_REP_ERR_UNSUP = 0x80000001,
  NBD_REP_ERR_POLICY = 0x80000002,
  NBD_REP_ERR_INVALID = 0x80000003,
  NBD_REP_ERR_PLATFORM = 0x80000004,
  NBD_REP_ERR_TLS_REQD = 0x80000005,
  NBD_REP_ERR_UNKNOWN = 0x80000006,
  NBD_REP_ERR_SHUTDOWN = 0x80000007,
  NBD_REP_ERR_BLOCK_SIZE_REQD = 0x80000008,
  NBD_REP_ERR_TOO_BIG = 0x80000009,
  NBD_REP_ERR_EXT_HEADER_REQD = 0x8000000a,
};

// Information types of NBD_OPT_INFO and NBD_OPT_GO.
inline constexpr uint16_t NBD_INFO_EXPORT = 0;
inline constexpr uint16_t NBD_INFO_NAME = 1;
inline constexpr uint16_t NBD_INFO_DESCRIPTION = 2;
inline constexpr uint16_t NBD_INFO_BLOCK_SIZE = 3;

// Command types.
enum NbdCommand : uint16_t {
  NBD_CMD_READ = 0,
  NBD_CMD_WRITE = 1,
  NBD_CMD_DISC = 2,
  NBD_CMD_FLUSH = 3,
  NBD_CMD_TRIM = 4,
  NBD_CMD_CACHE = 5,
  NBD_CMD_WRITE_ZEROES = 6,
  NBD_CMD_BLOCK_STATUS = 7,
};

// Command flags.
inline constexpr uint16_t NBD_CMD_FLAG_FUA = 1 << 0;
inline constexpr uint16_t NBD_CMD_FLAG_NO_HOLE = 1 << 1;
inline constexpr uint16_t NBD_CMD_FLAG_DF = 1 << 2;
inline constexpr uint16_t NBD_CMD_FLAG_REQ_ONE = 1 << 3;
inline constexpr uint16_t NBD_CMD_FLAG_FAST_ZERO = 1 << 4;
inline constexpr uint16_t NBD_CMD_FLAG_PAYLOAD_LEN = 1 << 5;

// Structured and extended reply flags and types.
inline constexpr uint16_t NBD_REPLY_FLAG_DONE = 1 << 0;
inline constexpr uint16_t NBD_REPLY_TYPE_NONE = 0;
inline constexpr uint16_t NBD_REPLY_TYPE_OFFSET_DATA = 1;
inline constexpr uint16_t NBD_REPLY_TYPE_OFFSET_HOLE = 2;
inline constexpr uint16_t NBD_REPLY_TYPE_BLOCK_STATUS = 5;
inline constexpr uint16_t NBD_REPLY_TYPE_BLOCK_STATUS_EXT = 6;
inline constexpr uint16_t NBD_REPLY_TYPE_ERROR = (1 << 15) + 1;
inline constexpr uint16_t NBD_REPLY_TYPE_ERROR_OFFSET = (1 << 15) + 2;

// Status flags of base:allocation.
inline constexpr uint32_t NBD_STATE_HOLE = 1 << 0;
inline constexpr uint32_t NBD_STATE_ZERO = 1 << 1;

// Error values. They aren't the system's errno values, although they look
// alike.
enum NbdError : uint32_t {
  NBD_SUCCESS = 0,
  NBD_EPERM = 1,
  NBD_EIO = 5,
  NBD_ENOMEM = 12,
  NBD_EINVAL = 22,
  NBD_ENOSPC = 28,
  NBD_EOVERFLOW = 75,
  NBD_ENOTSUP = 95,
  NBD_ESHUTDOWN = 108,
};

}  // namespace nbdinetd

#endif  // NBDINETD_PROTOCOL_NBD_H_
