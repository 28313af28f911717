// The layers that the administrator has put on an export, from below:
//
//     file or block device ─▶ Slice (--offset, --length; or --partition, which
//     is such a part by now) ─▶ Slice or Padding
//     (--size) ─▶ Slice (--block-size)
#ifndef NBDINETD_EXPORT_LAYERS_H_
#define NBDINETD_EXPORT_LAYERS_H_

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "export/export.h"
#include "export/export_settings.h"

namespace nbdinetd {

// Puts the layers of `settings` on `base`; with none, returns `base`. NotFound
// when `base` doesn't have the part that `settings` name.
absl::StatusOr<std::unique_ptr<Export>> WithLayers(
    std::unique_ptr<Export> base, const ExportSettings& settings);

// The size that they give a base of `size_bytes`; nullopt when it doesn't have
// that part, or would become too large.
std::optional<uint64_t> SizeWithLayers(const ExportSettings& settings,
                                       uint64_t size_bytes);

}  // namespace nbdinetd

#endif  // NBDINETD_EXPORT_LAYERS_H_
