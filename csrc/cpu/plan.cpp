// How a call is cut into units of work, and how much memory a thread needs for them.

#include "kernels.h"

namespace ddetr {
namespace {

constexpr int64_t kArrays = 24;  // over L * P, more than `Samples` has

int64_t rounded(int64_t bytes) {
  return (bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
}

}  // namespace

Work plan_work(const Problem& problem, int64_t threads) {
  const int64_t samples = problem.levels * problem.points;
  // Copying a head costs a read and a write of each of its cells; a sample reads four.
  const bool packed = problem.queries * samples >= problem.tokens;
  const int64_t whole = problem.batch * (packed ? problem.heads : 1);
  // Twice as many units as threads, so that none waits long for the last one; a packed share copies the head anew.
  const int64_t wanted = whole > 0 ? (2 * threads + whole - 1) / whole : 1;
  const int64_t most = packed ? problem.queries * samples / (problem.tokens + 1) : problem.queries / 16;
  const int64_t parts = most < 1 ? 1 : wanted < most ? wanted : most;
  return Work{packed, parts, whole * parts};
}

int64_t scratch_bytes(const Problem& problem, const Work& work, Element element, bool backward) {
  const int64_t real = element == Element::Float64 ? 8 : 4;
  const int64_t map = rounded(problem.tokens * problem.channels * real);
  const int64_t samples = kGroup * kArrays * rounded(problem.levels * problem.points * real);
  const int64_t maps = (work.packed ? 1 : 0) + (backward ? 1 : 0);
  return maps * map + samples + (backward ? kGroup : 1) * rounded(problem.channels * real);
}

}  // namespace ddetr
