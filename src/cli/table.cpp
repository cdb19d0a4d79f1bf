// SPDX-License-Identifier: Apache-2.0
//
// Lays out tables for terminals.  A column in which every cell is empty is left out: most runs have no
// remarks, few formats have digests.
#include "cli/table.h"

#include <algorithm>

namespace weightfs::cli {
namespace {

constexpr size_t kGap = 2;

}  // namespace

void Table::add(std::vector<Cell> row) {
  row.resize(columns_.size());
  rows_.push_back({std::move(row), {}});
}

void Table::note(std::string text, Colour colour) { rows_.back().notes.push_back({std::move(text), colour}); }

/// Of each column; 0 for one without content.
std::vector<size_t> Table::widths() const {
  std::vector<size_t> widths(columns_.size(), 0);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < widths.size(); ++i) widths[i] = std::max(widths[i], display_width(row.cells[i].text));
  }
  for (size_t i = 0; i < widths.size(); ++i) {
    if (widths[i] > 0) widths[i] = std::max(widths[i], display_width(columns_[i].title));
  }
  return widths;
}

std::vector<bool> Table::fitting(const std::vector<size_t>& widths, size_t limit) const {
  std::vector<bool> shown(columns_.size());
  size_t total = 0;
  for (size_t i = 0; i < shown.size(); ++i) {
    shown[i] = widths[i] > 0;
    if (shown[i]) total += widths[i] + kGap;
  }
  while (limit != 0 && total > limit + kGap) {
    size_t victim = columns_.size();
    for (size_t i = 0; i < shown.size(); ++i) {
      if (!shown[i] || columns_[i].importance == 0) continue;
      if (victim == columns_.size() || columns_[i].importance > columns_[victim].importance) victim = i;
    }
    if (victim == columns_.size()) break;
    shown[victim] = false;
    total -= widths[victim] + kGap;
  }
  return shown;
}

std::string Table::line(const std::vector<Cell>& cells, const std::vector<size_t>& widths,
                        const std::vector<bool>& shown, const Terminal& terminal) const {
  std::string out;
  size_t owed = 0;  // spaces that are written only when something follows them
  for (size_t i = 0; i < cells.size(); ++i) {
    if (!shown[i]) continue;
    const size_t padding = widths[i] - display_width(cells[i].text);
    if (!cells[i].text.empty()) {
      out.append(owed + (columns_[i].right ? padding : 0), ' ').append(terminal.paint(cells[i].colour, cells[i].text));
      owed = columns_[i].right ? 0 : padding;
    } else {
      owed += padding;
    }
    owed += kGap;
  }
  return out + "\n";
}

std::string Table::text(const Terminal& terminal) const {
  const auto column_widths = widths();
  const auto shown = fitting(column_widths, terminal.width);
  std::vector<Cell> titles;
  for (size_t i = 0; i < columns_.size(); ++i) {
    titles.push_back({shown[i] ? columns_[i].title : std::string(), Colour::kFaint});
  }
  std::string out = line(titles, column_widths, shown, terminal);
  for (const auto& row : rows_) {
    out += line(row.cells, column_widths, shown, terminal);
    for (const auto& note : row.notes) out += terminal.remark(note.colour, note.text);
  }
  return out;
}

}  // namespace weightfs::cli
