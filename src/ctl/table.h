// Rows of cells, printed as a table or as JSON from one description of the
// columns.
//
// A column's kind says what its cells hold and how a person reads them. An
// empty cell is "-" in a table, and absent in JSON. Threads: one.
#ifndef NBDINETD_CTL_TABLE_H_
#define NBDINETD_CTL_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace nbdinetd::ctl {

enum class Kind {
  kText,
  kList,   // of texts: joined by ", " in a table
  kCount,  // a number
  kBytes,  // a number; "1.5K" in a table
  kRate,   // bytes a second; "1.5K/s" in a table
  kTime,   // microseconds since the epoch; a date in a table
  kAge,    // the same; "2min ago" in a table
  kSpan,   // microseconds; "2min" in a table
  kJson,   // a JsonValue; in JSON only
};

struct Column {
  const char* header;  // "" for a column of JSON only
  const char* name;    // in JSON; "" for a column of tables only
  Kind kind;
  // In a table that is wider than the terminal, its cells are shortened.
  bool flexible = false;
  // A table has it only if a row has a value for it.
  bool optional = false;
};

// A value that is JSON already.
struct JsonValue {
  std::string json;
};

using Cell = std::variant<std::monostate, std::string, uint64_t,
                          std::vector<std::string>, JsonValue>;

// A cell that is empty without a value.
template <typename T>
Cell CellOf(const std::optional<T>& value) {
  if (!value.has_value()) return std::monostate();
  return Cell(*value);
}
// A cell that is empty for an empty text.
inline Cell TextCell(std::string text) {
  if (text.empty()) return std::monostate();
  return text;
}

struct TableStyle {
  bool legend = true;
  size_t width = 0;  // in columns of a terminal; 0: without limit
  absl::Time now;    // for kAge
  absl::TimeZone zone;
};

enum class Json { kOff, kShort, kPretty };

class Table {
 public:
  // `columns` is borrowed.
  explicit Table(absl::Span<const Column> columns) : columns_(columns) {}

  // One cell for each column.
  void AddRow(std::vector<Cell> row);
  bool empty() const { return rows_.empty(); }

  std::string Text(const TableStyle& style) const;
  // An array with an object for each row. Bytes that aren't UTF-8 become
  // U+FFFD.
  std::string InJson(Json form) const;

 private:
  absl::Span<const Column> columns_;
  std::vector<std::vector<Cell>> rows_;
};

}  // namespace nbdinetd::ctl

#endif  // NBDINETD_CTL_TABLE_H_
