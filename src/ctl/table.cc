#include "ctl/table.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/json.h"
#include "ctl/readable.h"

namespace nbdinetd::ctl {
namespace {

constexpr size_t kGap = 2;        // blanks between columns
constexpr size_t kNarrowest = 8;  // of a column that is shortened

bool IsEmpty(const Cell& cell) {
  return std::holds_alternative<std::monostate>(cell);
}

std::string NumberText(Kind kind, uint64_t number, const TableStyle& style) {
  const auto usec = static_cast<int64_t>(number);
  switch (kind) {
    case Kind::kBytes:
      return ReadableBytes(number);
    case Kind::kRate:
      return number == 0 ? "0" : absl::StrCat(ReadableBytes(number), "/s");
    case Kind::kTime:
      return ReadableTime(absl::FromUnixMicros(usec), style.zone);
    case Kind::kAge:
      return ReadableAge(absl::FromUnixMicros(usec), style.now);
    case Kind::kSpan:
      return ReadableSpan(absl::Microseconds(usec));
    default:
      return absl::StrCat(number);
  }
}

std::string CellText(const Column& column, const Cell& cell,
                     const TableStyle& style) {
  if (const auto* text = std::get_if<std::string>(&cell)) {
    return Visible(*text);
  }
  if (const auto* number = std::get_if<uint64_t>(&cell)) {
    return NumberText(column.kind, *number, style);
  }
  if (const auto* list = std::get_if<std::vector<std::string>>(&cell)) {
    std::vector<std::string> visible;
    for (const std::string& text : *list) visible.push_back(Visible(text));
    return absl::StrJoin(visible, ", ");
  }
  return column.optional ? "" : "-";
}

bool IsRightAligned(Kind kind) {
  return kind == Kind::kCount || kind == Kind::kBytes || kind == Kind::kRate;
}

// A column of the text, with what it shows.
struct TextColumn {
  const Column* column;
  std::vector<std::string> lines;
  size_t width = 0;
};

// Narrows the flexible columns, the widest first, until a line fits.
void Fit(size_t width, std::vector<TextColumn>& columns) {
  size_t total = 0;
  for (const TextColumn& column : columns) total += column.width + kGap;
  while (total > width + kGap) {
    TextColumn* widest = nullptr;
    for (TextColumn& column : columns) {
      if (column.column->flexible && column.width > kNarrowest &&
          (widest == nullptr || column.width > widest->width)) {
        widest = &column;
      }
    }
    if (widest == nullptr) return;
    --widest->width;
    --total;
  }
}

std::string Line(const std::vector<TextColumn>& columns, size_t index) {
  std::string line;
  for (const TextColumn& column : columns) {
    const std::string text = Ellipsized(column.lines[index], column.width);
    const std::string blanks(column.width - WidthOf(text), ' ');
    if (!line.empty()) line.append(kGap, ' ');
    const bool right = IsRightAligned(column.column->kind);
    absl::StrAppend(&line, right ? blanks : "", text, right ? "" : blanks);
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

std::string CellJson(const Cell& cell) {
  if (const auto* text = std::get_if<std::string>(&cell)) {
    return JsonString(*text);
  }
  if (const auto* number = std::get_if<uint64_t>(&cell)) {
    return absl::StrCat(*number);
  }
  if (const auto* value = std::get_if<JsonValue>(&cell)) return value->json;
  std::vector<std::string> texts;
  for (const std::string& text : std::get<std::vector<std::string>>(cell)) {
    texts.push_back(JsonString(text));
  }
  return absl::StrCat("[", absl::StrJoin(texts, ","), "]");
}

}  // namespace

void Table::AddRow(std::vector<Cell> row) {
  row.resize(columns_.size());
  rows_.push_back(std::move(row));
}

std::string Table::Text(const TableStyle& style) const {
  std::vector<TextColumn> shown;
  for (size_t i = 0; i < columns_.size(); ++i) {
    const Column& column = columns_[i];
    const bool has_value = std::any_of(
        rows_.begin(), rows_.end(),
        [i](const std::vector<Cell>& row) { return !IsEmpty(row[i]); });
    if (column.header[0] == '\0' || (column.optional && !has_value)) continue;
    TextColumn& text = shown.emplace_back();
    text.column = &column;
    // A header of blanks is a column without one.
    if (style.legend) {
      text.lines.push_back(column.header[0] == ' ' ? "" : column.header);
    }
    for (const std::vector<Cell>& row : rows_) {
      text.lines.push_back(CellText(column, row[i], style));
    }
    for (const std::string& line : text.lines) {
      text.width = std::max(text.width, WidthOf(line));
    }
  }
  if (style.width > 0) Fit(style.width, shown);
  std::string result;
  const size_t lines = rows_.size() + (style.legend ? 1 : 0);
  for (size_t i = 0; i < lines; ++i) result += Line(shown, i);
  return result;
}

std::string Table::InJson(Json form) const {
  const bool pretty = form == Json::kPretty;
  std::vector<std::string> objects;
  for (const std::vector<Cell>& row : rows_) {
    std::vector<std::string> members;
    for (size_t i = 0; i < columns_.size(); ++i) {
      if (columns_[i].name[0] == '\0' || IsEmpty(row[i])) continue;
      members.push_back(absl::StrCat(pretty ? "\t\t" : "",
                                     JsonString(columns_[i].name),
                                     pretty ? " : " : ":", CellJson(row[i])));
    }
    objects.push_back(
        pretty ? absl::StrCat("\t{\n", absl::StrJoin(members, ",\n"), "\n\t}")
               : absl::StrCat("{", absl::StrJoin(members, ","), "}"));
  }
  if (objects.empty()) return "[]\n";
  return pretty ? absl::StrCat("[\n", absl::StrJoin(objects, ",\n"), "\n]\n")
                : absl::StrCat("[", absl::StrJoin(objects, ","), "]\n");
}

}  // namespace nbdinetd::ctl
