#include "ctl/table.h"

#include <gtest/gtest.h>

namespace nbdinetd::ctl {
namespace {

constexpr Column kColumns[] = {
    {.header = "EXPORT", .name = "export", .kind = Kind::kText},
    {.header = "FILE", .name = "file", .kind = Kind::kText, .flexible = true},
    {.header = "SIZE", .name = "size", .kind = Kind::kBytes},
    {.header = "RATE", .name = "rate", .kind = Kind::kRate},
    {.header = "SINCE", .name = "since", .kind = Kind::kAge},
    {.header = "", .name = "pid", .kind = Kind::kCount},
    {.header = "LIST", .name = "list", .kind = Kind::kList},
    {.header = " ", .name = "reason", .kind = Kind::kText, .optional = true},
};

const absl::Time kNow = absl::FromUnixSeconds(1000);

TableStyle Style() { return {.now = kNow, .zone = absl::UTCTimeZone()}; }

Table Example() {
  Table table(kColumns);
  table.AddRow({"golden", "/srv/golden.img", uint64_t{40} << 30, uint64_t{2048},
                uint64_t{880} * 1000000, uint64_t{17},
                std::vector<std::string>{"a", "b"}});
  table.AddRow({"s", std::monostate(), std::monostate(), uint64_t{0}});
  return table;
}

TEST(Table, NumbersAreRightAlignedAndAnEmptyCellIsADash) {
  EXPECT_EQ(Example().Text(Style()),
            "EXPORT  FILE              SIZE    RATE  SINCE     LIST\n"
            "golden  /srv/golden.img  40.0G  2.0K/s  2min ago  a, b\n"
            "s       -                    -       0  -         -\n");
}

TEST(Table, WithoutLegendThereAreOnlyRows) {
  TableStyle style = Style();
  style.legend = false;
  Table table(kColumns);
  table.AddRow({"golden", "/f"});
  EXPECT_EQ(table.Text(style), "golden  /f  -  -  -  -\n");
}

TEST(Table, AnOptionalColumnIsThereForOneValue) {
  Table table(kColumns);
  table.AddRow({"a"});
  EXPECT_EQ(table.Text(Style()),
            "EXPORT  FILE  SIZE  RATE  SINCE  LIST\n"
            "a       -        -     -  -      -\n");
  table.AddRow({"b", {}, {}, {}, {}, {}, {}, "no such file"});
  EXPECT_EQ(table.Text(Style()),
            "EXPORT  FILE  SIZE  RATE  SINCE  LIST\n"
            "a       -        -     -  -      -\n"
            "b       -        -     -  -      -     no such file\n");
}

TEST(Table, FlexibleCellsAreShortenedToTheTerminal) {
  TableStyle style = Style();
  style.width = 48;
  EXPECT_EQ(Example().Text(style),
            "EXPORT  FILE        SIZE    RATE  SINCE     LIST\n"
            "golden  /srv/gol\u2026  40.0G  2.0K/s  2min ago  a, b\n"
            "s       -              -       0  -         -\n");
}

TEST(Table, ACellCantForgeALine) {
  Table table(kColumns);
  table.AddRow({"a\nb\x1b[0m"});
  EXPECT_EQ(table.Text(Style()),
            "EXPORT       FILE  SIZE  RATE  SINCE  LIST\n"
            "a\\nb\\033[0m  -        -     -  -      -\n");
}

TEST(Table, JsonHasEveryNameThatHasAValue) {
  EXPECT_EQ(Example().InJson(Json::kShort),
            "[{\"export\":\"golden\",\"file\":\"/srv/golden.img\","
            "\"size\":42949672960,\"rate\":2048,\"since\":880000000,"
            "\"pid\":17,\"list\":[\"a\",\"b\"]},"
            "{\"export\":\"s\",\"rate\":0}]\n");
  Table one(kColumns);
  EXPECT_EQ(one.InJson(Json::kPretty), "[]\n");
  one.AddRow({"a", "b"});
  EXPECT_EQ(one.InJson(Json::kPretty),
            "[\n\t{\n\t\t\"export\" : \"a\",\n\t\t\"file\" : \"b\"\n\t}\n]\n");
}

}  // namespace
}  // namespace nbdinetd::ctl
