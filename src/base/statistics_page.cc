#include "base/statistics_page.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <new>
#include <type_traits>

namespace nbdinetd {
namespace {

// Since Linux 6.3; the C library may be older. The kernel warns about a memfd
// that says neither that it may be executed nor that it may not.
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

UniqueFd CreatePage() {
  constexpr unsigned kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  int fd = memfd_create(kStatisticsPageName, kFlags | MFD_NOEXEC_SEAL);
  if (fd < 0 && errno == EINVAL) fd = memfd_create(kStatisticsPageName, kFlags);
  UniqueFd page(fd);
  // Sealed, since a page that shrinks would kill the process at its next write.
  if (!page.valid() || ftruncate(fd, sizeof(StatisticsLayout)) != 0 ||
      fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    page.Reset();
  }
  return page;
}

}  // namespace

StatisticsPage::StatisticsPage(bool shared) {
  if (shared) fd_ = CreatePage();
  layout_ = Map();
  if (layout_ == nullptr) {
    fd_.Reset();
    own_ = std::make_unique<StatisticsLayout>();
    layout_ = own_.get();
  }
  layout_->length_bytes = sizeof(StatisticsLayout);
}

StatisticsPage::~StatisticsPage() {
  if (own_ == nullptr) munmap(layout_, sizeof(StatisticsLayout));
}

StatisticsLayout* StatisticsPage::Map() {
  if (!fd_.valid()) return nullptr;
  void* memory = mmap(nullptr, sizeof(StatisticsLayout), PROT_READ | PROT_WRITE,
                      MAP_SHARED, fd_.get(), 0);
  return memory == MAP_FAILED ? nullptr : new (memory) StatisticsLayout;
}

std::optional<Statistics> ParseStatisticsPage(absl::string_view page) {
  static_assert(std::is_trivially_copyable_v<StatisticsLayout>);
  StatisticsLayout layout;
  const auto magic = layout.magic;
  if (page.size() < sizeof(layout)) return std::nullopt;
  std::memcpy(&layout, page.data(), sizeof(layout));
  if (layout.magic != magic || layout.version != StatisticsLayout::kVersion ||
      layout.length_bytes != sizeof(layout)) {
    return std::nullopt;
  }
  return layout.statistics;
}

}  // namespace nbdinetd
