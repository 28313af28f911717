// Whom --check and a merge see while connections come and go. The locks of QEMU
// itself are in tests/system/image_lock_test.py.
#include "export/image_lock.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <memory>
#include <thread>
#include <utility>

#include "base/unique_fd.h"
#include "export/file.h"
#include "support/image.h"

namespace nbdinetd {
namespace {

using nbdtest::TempImage;

std::unique_ptr<Export> Open(const TempImage& image) {
  UniqueFd fd(open(image.path().c_str(), O_RDWR | O_CLOEXEC));
  struct stat st;
  EXPECT_EQ(fstat(fd.get(), &st), 0);
  return FileExport::Create(image.path(), std::move(fd), st, {});
}

TEST(ImageLock, AConnectionThatComesOrGoesIsNeverTakenForQemu) {
  const TempImage image = TempImage::WithPattern(4096);
  const UniqueFd looks(open(image.path().c_str(), O_RDONLY | O_CLOEXEC));
  for (int i = 0; i < 500; ++i) {
    std::atomic<bool> seen = false;
    std::thread connection([&] {
      const std::unique_ptr<Export> target = Open(image);
      EXPECT_TRUE(LockImage(*target));
      while (!seen) std::this_thread::yield();
    });
    const auto expect_nobody = [&] {
      const ImageUse use = ImageUseOf(looks.get());
      EXPECT_FALSE(use.is_used || use.is_written_to || use.forbids_writing)
          << i;
    };
    while (!IsServedForWriting(looks.get())) expect_nobody();
    seen = true;
    while (IsServedForWriting(looks.get())) expect_nobody();
    connection.join();
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace nbdinetd
