#include "cli/export_size.h"

#include <fcntl.h>

#include <utility>

#include "base/unique_fd.h"
#include "export/layers.h"
#include "partition/partition_table.h"
#include "partition/table_reader.h"
#include "sandbox/sandbox.h"

namespace nbdinetd {
namespace {

std::optional<Part> PartitionOf(const std::string& path,
                                const PartitionName& name,
                                uint64_t file_bytes) {
  const UniqueFd fd(
      open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd.valid()) return std::nullopt;
  auto reader = TableReader::Start(kDefaultSandbox);
  if (!reader.ok()) return std::nullopt;
  const absl::StatusOr<PartitionTable> table = (*reader)->Read(fd.get(), path);
  TableReader::End(*std::move(reader));
  if (!table.ok()) return std::nullopt;
  const absl::StatusOr<PartitionRange> range =
      FindPartition(*table, name, file_bytes, path);
  if (!range.ok()) return std::nullopt;
  return Part{range->offset, range->length};
}

}  // namespace

std::optional<uint64_t> ExportSize(const ExportSettings& settings,
                                   const std::string& path,
                                   uint64_t file_bytes) {
  ExportSettings all = settings;
  if (settings.partition.has_value()) {
    all.part = PartitionOf(path, *settings.partition, file_bytes);
    if (!all.part.has_value()) return std::nullopt;
  }
  return SizeWithLayers(all, file_bytes);
}

}  // namespace nbdinetd
