// Patterns for the distinguished names of certificates, as RFC 2253 writes
// them: CN=build-*,OU=CI,*
//
// A pattern and a name are lists of attributes, which commas separate. An
// attribute of a pattern matches one attribute of the name, in the same place:
// its type is equal, but for upper and lower case, and its value matches as a
// glob (access/glob.h). An attribute that is only a * matches any number of
// attributes, also none. Where a + joins several attributes, the pattern must
// have as many.
//
// Values are compared with their escapes undone (\, and \2C are a comma). A
// value therefore never reaches beyond its attribute: the client with the
// subject O=x\,CN=build-1 isn't CN=build-1, and matches no pattern for that.
//
// A value of a type or encoding that OpenSSL can't show, which is then # and
// hexadecimal digits, matches only a * in place of its attribute.
//
// Work: for each attribute of the name, all of the pattern's, of which there
// are at most kMaxPatternAttributes, and their globs; it is linear in the
// length of the name. Threads: any.
#ifndef NBDINETD_ACCESS_SUBJECT_PATTERN_H_
#define NBDINETD_ACCESS_SUBJECT_PATTERN_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "access/glob.h"

namespace nbdinetd {

// InvalidArgument: `pattern` is none.
absl::Status CheckSubjectPattern(absl::string_view pattern);

// Whether a distinguished name matches. CheckSubjectPattern() has accepted the
// pattern. An empty name matches nothing.
bool SubjectMatches(absl::string_view pattern, absl::string_view name);

// How much a pattern that CheckSubjectPattern() has accepted says. A byte
// counts once, however it is escaped.
GlobWeight WeightOfSubject(absl::string_view pattern);

}  // namespace nbdinetd

#endif  // NBDINETD_ACCESS_SUBJECT_PATTERN_H_
