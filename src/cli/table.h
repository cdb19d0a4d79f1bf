// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "cli/terminal.h"

namespace weightfs::cli {

/// Rows in columns, for people.  Columns that a narrow terminal has no room for are left out whole,
/// the least important first; text is never cut.
class Table {
 public:
  struct Column {
    std::string title;
    bool right = false;       ///< numbers
    unsigned importance = 0;  ///< 0: never left out; else the highest number goes first
  };
  struct Cell {
    std::string text;
    Colour colour = Colour::kNone;
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  void add(std::vector<Cell> row);
  /// A remark below the row added last, wrapped to the terminal.
  void note(std::string text, Colour colour = Colour::kNone);

  std::string text(const Terminal& terminal) const;

 private:
  struct Row {
    std::vector<Cell> cells;
    std::vector<Cell> notes;
  };

  std::vector<size_t> widths() const;
  std::vector<bool> fitting(const std::vector<size_t>& widths, size_t limit) const;
  std::string line(const std::vector<Cell>& cells, const std::vector<size_t>& widths, const std::vector<bool>& shown,
                   const Terminal& terminal) const;

  std::vector<Column> columns_;
  std::vector<Row> rows_;
};

}  // namespace weightfs::cli
