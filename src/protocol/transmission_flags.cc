#include "protocol/transmission_flags.h"

#include "protocol/nbd.h"

namespace nbdinetd {

std::vector<absl::string_view> TransmissionFlagNames(uint16_t flags) {
  static constexpr struct {
    uint16_t flag;
    const char* name;
  } kFlags[] = {
      {NBD_FLAG_HAS_FLAGS, "HAS_FLAGS"},
      {NBD_FLAG_READ_ONLY, "READ_ONLY"},
      {NBD_FLAG_SEND_FLUSH, "SEND_FLUSH"},
      {NBD_FLAG_SEND_FUA, "SEND_FUA"},
      {NBD_FLAG_ROTATIONAL, "ROTATIONAL"},
      {NBD_FLAG_SEND_TRIM, "SEND_TRIM"},
      {NBD_FLAG_SEND_WRITE_ZEROES, "SEND_WRITE_ZEROES"},
      {NBD_FLAG_SEND_DF, "SEND_DF"},
      {NBD_FLAG_CAN_MULTI_CONN, "CAN_MULTI_CONN"},
      {NBD_FLAG_SEND_CACHE, "SEND_CACHE"},
      {NBD_FLAG_SEND_FAST_ZERO, "SEND_FAST_ZERO"},
      {NBD_FLAG_BLOCK_STATUS_PAYLOAD, "BLOCK_STATUS_PAYLOAD"},
  };
  std::vector<absl::string_view> names;
  for (const auto& [flag, name] : kFlags) {
    if ((flags & flag) != 0) names.push_back(name);
  }
  return names;
}

}  // namespace nbdinetd
