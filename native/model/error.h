// The one exception the native side throws at a caller: a stable snake_case code and a sentence that helps.
// The addon turns it into a KadenzError of the same code. A broken invariant of our own is not a HostError:
// it aborts.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace kadenz {

class HostError : public std::runtime_error {
 public:
  HostError(std::string code, const std::string& sentence)
      : std::runtime_error(sentence), code_(std::move(code)) {}

  const std::string& code() const { return code_; }

 private:
  std::string code_;
};

}  // namespace kadenz
