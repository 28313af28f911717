// The administrator's choices for all exports. A plain value.
#ifndef NBDINETD_EXPORT_EXPORT_SETTINGS_H_
#define NBDINETD_EXPORT_EXPORT_SETTINGS_H_

#include <optional>

#include "base/block_sizes.h"

namespace nbdinetd {

struct ExportSettings {
  bool read_only = false;
  // Without them, the storage decides what is preferred.
  std::optional<BlockSizes> block_sizes = std::nullopt;
};

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_EXPORT_SETTINGS_H_
