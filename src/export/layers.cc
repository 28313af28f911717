#include "export/layers.h"

#include <cstdint>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/errors.h"
#include "export/padding.h"
#include "export/slice.h"

namespace nbdinetd {
namespace {

// The kernel's offsets are signed.
constexpr uint64_t kMaxBytes = std::numeric_limits<int64_t>::max();

absl::Status NoSuchPart(const Export& base, absl::string_view why) {
  return absl::NotFoundError(
      absl::StrCat("failed to open ", Quoted(base.path()), ": it has ",
                   base.facts().size_bytes, " bytes, ", why));
}

Export::Facts WithSize(Export::Facts facts, uint64_t size_bytes) {
  facts.size_bytes = size_bytes;
  return facts;
}

std::unique_ptr<Export> Cut(std::unique_ptr<Export> base, uint64_t begin,
                            uint64_t size_bytes) {
  Export::Facts facts = WithSize(base->facts(), size_bytes);
  if (facts.direct_block_bytes != 0 && begin % facts.direct_block_bytes != 0) {
    facts.direct_block_bytes = Export::kNoBlock;
  }
  return std::make_unique<Slice>(std::move(base), begin, facts);
}

absl::StatusOr<std::unique_ptr<Export>> PartOf(std::unique_ptr<Export> base,
                                               const Part& part) {
  const uint64_t size = base->facts().size_bytes;
  if (part.offset > size) {
    return NoSuchPart(*base, absl::StrCat("and --offset is ", part.offset,
                                          ": choose one that is no larger"));
  }
  const uint64_t rest = size - part.offset;
  if (part.length.value_or(0) > rest) {
    return NoSuchPart(
        *base, absl::StrCat(rest,
                            " of them from --offset on, and "
                            "--length is ",
                            *part.length, ": choose one that is no larger"));
  }
  return Cut(std::move(base), part.offset, part.length.value_or(rest));
}

// The size that an export of `size` bytes gets; nullopt if it is too large.
std::optional<uint64_t> SizeAfter(const SizeChange& change, uint64_t size) {
  switch (change.kind) {
    case SizeChange::Kind::kExactly:
      return change.bytes;
    case SizeChange::Kind::kDown:
      return size - size % change.bytes;
    case SizeChange::Kind::kUp:
      break;
  }
  const uint64_t missing = (change.bytes - size % change.bytes) % change.bytes;
  if (missing > kMaxBytes - size) return std::nullopt;
  return size + missing;
}

absl::StatusOr<std::unique_ptr<Export>> Resized(std::unique_ptr<Export> base,
                                                const SizeChange& change) {
  const uint64_t size = base->facts().size_bytes;
  const std::optional<uint64_t> wanted = SizeAfter(change, size);
  if (!wanted.has_value()) {
    return NoSuchPart(*base, "and --size would make it too large");
  }
  if (*wanted == size) return base;
  if (*wanted < size) return Cut(std::move(base), 0, *wanted);
  const Export::Facts facts = WithSize(base->facts(), *wanted);
  return std::make_unique<Padding>(std::move(base), facts);
}

std::unique_ptr<Export> WithBlockSizes(std::unique_ptr<Export> base,
                                       const BlockSizes& block_sizes) {
  Export::Facts facts = base->facts();
  facts.block_sizes = block_sizes;
  // "the advertised export size SHOULD be an integer multiple of that block
  // size" ("Size constraints").
  facts.unserved_bytes =
      static_cast<uint32_t>(facts.size_bytes % block_sizes.minimum);
  facts.size_bytes -= facts.unserved_bytes;
  return std::make_unique<Slice>(std::move(base), 0, facts);
}

}  // namespace

std::optional<uint64_t> SizeWithLayers(const ExportSettings& settings,
                                       uint64_t size_bytes) {
  uint64_t size = size_bytes;
  if (settings.part.has_value()) {
    const Part& part = *settings.part;
    if (part.offset > size) return std::nullopt;
    size -= part.offset;
    if (part.length.value_or(0) > size) return std::nullopt;
    size = part.length.value_or(size);
  }
  if (settings.size.has_value()) {
    const std::optional<uint64_t> changed = SizeAfter(*settings.size, size);
    if (!changed.has_value()) return std::nullopt;
    size = *changed;
  }
  if (settings.block_sizes.has_value()) {
    size -= size % settings.block_sizes->minimum;
  }
  return size;
}

absl::StatusOr<std::unique_ptr<Export>> WithLayers(
    std::unique_ptr<Export> base, const ExportSettings& settings) {
  absl::StatusOr<std::unique_ptr<Export>> top = std::move(base);
  if (settings.part.has_value()) {
    top = PartOf(*std::move(top), *settings.part);
  }
  if (top.ok() && settings.size.has_value()) {
    top = Resized(*std::move(top), *settings.size);
  }
  if (top.ok() && settings.block_sizes.has_value()) {
    top = WithBlockSizes(*std::move(top), *settings.block_sizes);
  }
  return top;
}

}  // namespace nbdinetd
