// How a batch is split into tiles and groups, and the gradients of the groups are added up.
//
// The tiles of a batch lie in groups, which threads take one after the other. A group adds up its
// own gradients: matrices tile by tile in float, every kLevel rows in double; vectors in double. At
// the end the groups are added up in order. So the bits depend on the shapes and the number of
// threads alone.
#pragma once
#include <vector>

#include "tiles/passes.h"
#include "tiles/tile.h"

namespace manualbp {

constexpr int64_t kLevel = 2048;  // rows after which a group's sums go on in double

// Which rows are a tile, and which tiles a group.
struct Split {
  int64_t rows, tile, tiles, groups;
  int threads;
  int64_t summed;  // rows that are added up in dC/dW for each row of x

  // The first tile of a group. Where threads have several groups, each group has one tile and the
  // others are shared out so that groups become smaller: no thread waits long for the last one.
  int64_t start(int64_t group) const {
    if (groups <= threads) return group * tiles / groups;
    const int64_t others = tiles - groups, left = groups - group;
    return group + others - others * left * left / (groups * groups);
  }
};

// tile: the most rows of one, which stay as they are where `fixed`, else so few that each thread
// has some. work: multiplications of the whole pass. gradients: numbers of a group's matrices.
Split split(int64_t rows, int64_t tile, bool fixed, int64_t work, int64_t gradients,
            int64_t summed = 1);

// The sums of one group: into for some tiles, total for the matrices of all of them.
struct Sums {
  Into into;
  double* total = nullptr;  // nullptr while the first tiles are added up
  double cost = 0;
};

// Every wanted gradient of every group.
class Accumulated {
 public:
  Accumulated(const Net& net, const std::vector<bool>& wants, const at::Tensor& x);

  int64_t numbers() const { return length(matrices_); }

  // Memory for the groups; the first group's matrices are the tensors themselves.
  void begin(const Split& split);

  // Whether some group is so long that its sums go on in double.
  bool in_levels() const { return totals_.defined(); }

  // A group's sums so far go on in double, and those of its next tiles start anew.
  void level(int64_t g);

  // The groups added up in order, into the tensors; the sum of all errors.
  double end();

  Gradients found;
  std::vector<Sums> groups;

 private:
  struct Part {
    size_t at;  // of the parameter
    int64_t offset, count;
  };

  static int64_t length(const std::vector<Part>& parts) {
    return parts.empty() ? 0 : parts.back().offset + parts.back().count;
  }

  float* data(const Part& part) const {
    return found.parameters[part.at].mutable_data_ptr<float>();
  }

  void add_groups(const Part& part, int64_t begin, int64_t end) const;

  std::vector<Part> matrices_, vectors_;
  at::Tensor floats_, totals_;
  std::vector<double> vector_sums_;
};

}  // namespace manualbp
