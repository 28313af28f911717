#include "stream/psk_file.h"

#include <gtest/gtest.h>

#include <string>

#include "base/exit_status.h"

namespace nbdinetd {
namespace {

TEST(PskFile, HasAnIdentityAndAKeyInEachLine) {
  const auto keys = ParsePskFile("alice:00ff\r\n\nbob:with:colons:ABCDEF\n");
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_EQ(*keys, (PskMap{{"alice", std::string("\0\xff", 2)},
                           {"bob:with:colons", "\xab\xcd\xef"}}));
}

TEST(PskFile, MayHaveIdentitiesInHexadecimal) {
  const auto keys = ParsePskFile("#c3a4:01\n");
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_EQ(*keys, (PskMap{{"\xc3\xa4", "\x01"}}));
}

TEST(PskFile, SaysWhichLineIsWrongAndNothingOfWhatIsInIt) {
  for (const std::string& wrong :
       {std::string("5eC2e7"), std::string("u:5ec2e"), std::string("u:"),
        std::string(":5ec2e7"), std::string("u:5ec2e7x0"),
        std::string("a:5ec2e7"), std::string("#5ec2e:5ec2e7"),
        std::string("#:5ec2e7"), std::string("#00:5ec2e7"),
        std::string("u\0v:5ec2e7", 10),
        std::string(kMaxPskIdentityBytes + 1, 'u') + ":5ec2e7",
        "u:" + std::string(2 * kMaxPskBytes + 2, '5')}) {
    const auto keys = ParsePskFile("a:00\n" + wrong + "\nb:00\n");
    EXPECT_EQ(ExitStatusOf(keys.status()), ExitStatus::kConfig) << wrong;
    const std::string message(keys.status().message());
    EXPECT_EQ(message.substr(0, 8), "line 2: ") << wrong;
    EXPECT_EQ(message.find("5e"), std::string::npos) << message;
  }
}

TEST(PskFile, MustHaveAKey) {
  EXPECT_FALSE(ParsePskFile("").ok());
  EXPECT_FALSE(ParsePskFile("\n\r\n").ok());
}

TEST(PskFile, MayHaveTheLongestIdentityAndKeyThatOpenSslTakes) {
  EXPECT_TRUE(ParsePskFile(std::string(kMaxPskIdentityBytes, 'u') + ":" +
                           std::string(2 * kMaxPskBytes, '5'))
                  .ok());
}

}  // namespace
}  // namespace nbdinetd
