#include "ctl/properties.h"

#include <optional>

#include "absl/strings/string_view.h"

namespace nbdinetd::ctl {
namespace {

std::vector<std::string> ReadStrings(sd_bus_message* message) {
  std::vector<std::string> strings;
  if (sd_bus_message_enter_container(message, 'a', "s") < 0) return strings;
  const char* text = nullptr;
  while (sd_bus_message_read(message, "s", &text) > 0) strings.push_back(text);
  sd_bus_message_exit_container(message);
  return strings;
}

// a(ss) and a(sb): the second element of the latter is ignored.
StringPairs ReadPairs(sd_bus_message* message, const char* element) {
  StringPairs pairs;
  if (sd_bus_message_enter_container(message, 'a', element) < 0) return pairs;
  const std::string contents(element + 1, 2);
  while (sd_bus_message_enter_container(message, 'r', contents.c_str()) > 0) {
    const char* first = "";
    const char* second = "";
    sd_bus_message_read(message, "s", &first);
    if (contents == "ss") {
      sd_bus_message_read(message, "s", &second);
    } else {
      sd_bus_message_skip(message, "b");
    }
    pairs.emplace_back(first, second);
    sd_bus_message_exit_container(message);
  }
  sd_bus_message_exit_container(message);
  return pairs;
}

// BindPaths and its like: what is visible, and where.
StringPairs ReadBinds(sd_bus_message* message) {
  StringPairs pairs;
  if (sd_bus_message_enter_container(message, 'a', "(ssbt)") < 0) return pairs;
  const char *source, *target;
  int ignored;
  uint64_t flags;
  while (sd_bus_message_read(message, "(ssbt)", &source, &target, &ignored,
                             &flags) > 0) {
    pairs.emplace_back(source, target);
  }
  sd_bus_message_exit_container(message);
  return pairs;
}

// The argument vectors of ExecStart, each with its program's path in front.
StringLists ReadCommands(sd_bus_message* message) {
  StringLists commands;
  if (sd_bus_message_enter_container(message, 'a', "(sasbttttuii)") < 0) {
    return commands;
  }
  while (sd_bus_message_enter_container(message, 'r', "sasbttttuii") > 0) {
    const char* path = "";
    sd_bus_message_read(message, "s", &path);
    std::vector<std::string> command = ReadStrings(message);
    command.insert(command.begin(), path);
    commands.push_back(std::move(command));
    sd_bus_message_skip(message, "bttttuii");
    sd_bus_message_exit_container(message);
  }
  sd_bus_message_exit_container(message);
  return commands;
}

}  // namespace

uint64_t ReadNumber(sd_bus_message* message, char type) {
  if (type == 't') {
    uint64_t number = 0;
    sd_bus_message_read_basic(message, type, &number);
    return number;
  }
  uint32_t number = 0;
  sd_bus_message_read_basic(message, type, &number);
  return number;
}

namespace {

// Reads the contents of a variant of the type `signature`.
std::optional<PropertyValue> ReadValue(sd_bus_message* message,
                                       absl::string_view signature) {
  if (signature == "s") {
    const char* text = "";
    sd_bus_message_read(message, "s", &text);
    return text;
  }
  if (signature == "b") {
    int value = 0;
    sd_bus_message_read(message, "b", &value);
    return value != 0;
  }
  if (signature == "t" || signature == "u" || signature == "i") {
    return ReadNumber(message, signature[0]);
  }
  if (signature == "as") return ReadStrings(message);
  if (signature == "a(ss)") return ReadPairs(message, "(ss)");
  if (signature == "a(sb)") return ReadPairs(message, "(sb)");
  if (signature == "a(ssbt)") return ReadBinds(message);
  if (signature == "a(sasbttttuii)") return ReadCommands(message);
  sd_bus_message_skip(message, std::string(signature).c_str());
  return std::nullopt;
}

}  // namespace

Properties ReadProperties(sd_bus_message* message) {
  std::map<std::string, PropertyValue> values;
  sd_bus_message_enter_container(message, 'a', "{sv}");
  while (sd_bus_message_enter_container(message, 'e', "sv") > 0) {
    const char* name = "";
    const char* signature = "";
    sd_bus_message_read(message, "s", &name);
    sd_bus_message_peek_type(message, nullptr, &signature);
    const std::string type = signature;
    sd_bus_message_enter_container(message, 'v', type.c_str());
    if (std::optional<PropertyValue> value = ReadValue(message, type)) {
      values.emplace(name, *std::move(value));
    }
    sd_bus_message_exit_container(message);
    sd_bus_message_exit_container(message);
  }
  return Properties(std::move(values));
}

}  // namespace nbdinetd::ctl
