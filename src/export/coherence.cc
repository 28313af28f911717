#include "export/coherence.h"

#include "absl/strings/str_cat.h"
#include "export/storage_promises.h"

namespace nbdinetd {
namespace {

// Two hosts may change parts of one block at the same time: each reads the
// block, and writes all of it, with a lock that the other one doesn't see.
bool SplitsBlocks(const Export::Facts& facts) {
  return facts.block_device &&
         facts.block_sizes.minimum % facts.direct_block_bytes != 0;
}

std::string SharedInWords(const Export::Facts& facts) {
  const StoragePromises& promises = *facts.storage.promises;
  if (IsCoherent(facts)) {
    return facts.direct_block_bytes != 0 && !promises.coherent_between_hosts
               ? "nothing stays in the page cache of one host"
               : absl::StrCat(promises.name,
                              " keeps the caches of all hosts coherent");
  }
  constexpr char kAlone[] = "; --shared=no, if no other host serves it";
  if (!promises.coherent_when_direct) {
    return absl::StrCat("other hosts may serve it, too, and on ", promises.name,
                        " they may not see what is written here", kAlone);
  }
  if (facts.direct_block_bytes == 0) {
    return absl::StrCat(
        "other hosts may serve it, too, and don't see the page cache of this "
        "one; --cache=none passes by that",
        kAlone);
  }
  return absl::StrCat(
      "other hosts may serve it, too, and may change parts of the same block; "
      "--block-size lets clients write whole ones, which an --offset must not "
      "shift",
      kAlone);
}

}  // namespace

bool IsCoherent(const Export::Facts& facts) {
  if (facts.private_copy) return false;
  const StoragePromises& promises = *facts.storage.promises;
  if (facts.storage.served_by != OtherHosts::kYes) {
    return promises.coherent_on_host;
  }
  if (facts.direct_block_bytes == 0) return promises.coherent_between_hosts;
  return promises.coherent_when_direct && !SplitsBlocks(facts);
}

std::string CoherenceInWords(const Export::Facts& facts) {
  if (facts.private_copy) return "each connection has a copy of its own";
  const StoragePromises& promises = *facts.storage.promises;
  if (facts.storage.served_by == OtherHosts::kYes) return SharedInWords(facts);
  if (!promises.coherent_on_host) {
    return absl::StrCat("on ", promises.name,
                        " it isn't known what a flush of one connection "
                        "covers; --multi-conn=on, if it covers all of them");
  }
  if (facts.storage.served_by == OtherHosts::kNo) {
    return "no other host serves it, and the connections of this one share its "
           "page cache";
  }
  return "the connections of this host share its page cache; --shared=yes, if "
         "other hosts serve it, too";
}

bool LocksReachAll(const Export::Facts& facts) {
  const Storage& storage = facts.storage;
  return storage.served_by == OtherHosts::kNo ||
         (storage.promises->locks_reach_hosts && !storage.has_local_locks);
}

std::string WhyLocksReachNotAll(const Export::Facts& facts) {
  if (LocksReachAll(facts)) return "";
  const Storage& storage = facts.storage;
  return absl::StrCat(
      "a lock on ", storage.promises->name, " doesn't reach other hosts",
      storage.promises->locks_reach_hosts
          ? ", by the options of this mount: leave those out"
          : ": move it to a file system whose locks do, such as CephFS",
      "; or use --shared=no, if no other host serves it");
}

}  // namespace nbdinetd
