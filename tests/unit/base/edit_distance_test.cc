#include "base/edit_distance.h"

#include <gtest/gtest.h>

namespace nbdinetd {
namespace {

TEST(EditDistance, CountsWhatIsInsertedLeftOutReplacedOrSwapped) {
  EXPECT_EQ(EditDistance("", ""), 0u);
  EXPECT_EQ(EditDistance("readonly", "readonly"), 0u);
  EXPECT_EQ(EditDistance("", "port"), 4u);
  EXPECT_EQ(EditDistance("port", ""), 4u);
  EXPECT_EQ(EditDistance("readonl", "readonly"), 1u);
  EXPECT_EQ(EditDistance("read-only", "readonly"), 1u);
  EXPECT_EQ(EditDistance("readomly", "readonly"), 1u);
  EXPECT_EQ(EditDistance("raedonly", "readonly"), 1u);
  EXPECT_EQ(EditDistance("Port", "port"), 1u);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3u);
}

}  // namespace
}  // namespace nbdinetd
