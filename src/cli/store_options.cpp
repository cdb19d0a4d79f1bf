// SPDX-License-Identifier: Apache-2.0
//
// The command lines of everything that writes to a store.
#include "cli/store_options.h"

#include <fmt/format.h>

#include "codec/block_codec.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

constexpr const char* kStoresGroup = "Stores";

CLI::App& add_command(CLI::App& root, const std::string& name, const std::string& what) {
  auto& app = *root.add_subcommand(name, what);
  app.group(kStoresGroup);
  return app;
}

void add_store(CLI::App& app, Options& options, const std::string& what = "The store") {
  app.add_option("STORE", options.store.path, what)->required();
}

void add_json(CLI::App& app, Options& options) {
  app.add_flag("--json", options.json, "Print exact data as JSON; see weightfs(1)");
}

void add_footer(CLI::App& app, std::string_view lines, std::string_view closing) {
  app.footer(fmt::format("Example:\n{}\n{}", lines, closing));
}

void declare_init(CLI::App& root, Options& options, std::string_view closing) {
  auto& app = add_command(root, "init", "Make a store of versions on top of a base model");
  add_store(app, options, "Folder to create");
  app.add_option("--base", options.base, "Folder of the base model")->type_name("DIR")->required();
  app.add_flag("--full", options.store.full, "Keep the base in the store, compressed (default: refer to DIR)");
  add_json(app, options);
  add_footer(app, "  weightfs init runs/7/store --base models/Qwen3-0.6B\n", closing);
}

void declare_commit(CLI::App& root, Options& options, std::string_view closing) {
  auto& app = add_command(root, "commit", "Add a checkpoint folder to a store as one more version");
  add_store(app, options);
  app.add_option("CHECKPOINT", options.source, "Folder of the checkpoint; any version folder of a mount will do")
      ->required();
  app.add_option("--parent", options.store.parent, "Version to build on (default: latest)")->type_name("NAME|latest");
  app.add_option("--name", options.store.name, "Name of the version (default: v000001, v000002 ...)")
      ->type_name("NAME");
  app.add_option("--message", options.store.message, "A line for the log")->type_name("TEXT");
  app.add_flag("--full", options.store.full, "Store it so that it needs no other version");
  app.add_option_function<std::string>(
         "--block-size",
         [&options](const std::string& text) {
           options.store.block_bytes = text == "auto" ? store::kAutoBlockBytes : parse_size(text).value_or(0);
         },
         "Unit of decoding: 64K, 256K or 1M\n(default: auto, by how much changed)")
      ->check(CLI::IsMember({"auto", "64K", "256K", "1M"}).description(""))
      ->type_name("SIZE|auto");
  add_json(app, options);
  add_footer(app,
             "  weightfs commit runs/7/store checkpoints/step-200 --name step-200\n"
             "  weightfs commit runs/7/store /mnt/other/step_000042 --message 'from the other run'\n",
             closing);
}

void declare_import(CLI::App& root, Options& options, std::string_view closing) {
  auto& app = add_command(root, "import", "Copy every version of a source into a store; goes on where it stopped");
  app.add_option("SOURCE", options.source, "Folder of published deltas, or another store")->required();
  add_store(app, options, "The store; made when there is none");
  app.add_option("--base", options.base, "Folder of the base model (default: look for it in SOURCE)")->type_name("DIR");
  add_json(app, options);
  add_footer(app, "  weightfs import --base models/Qwen3-0.6B runs/7/bucket runs/7/store\n", closing);
}

void declare_squash(CLI::App& root, Options& options, std::string_view closing) {
  auto& app = add_command(root, "squash", "Add nets that lead over several versions at once, for faster reading");
  add_store(app, options);
  app.add_option_function<std::string>(
         "FROM..TO",
         [&options](const std::string& text) {
           const size_t dots = text.find("..");
           if (dots == std::string::npos || dots == 0 || dots + 2 == text.size()) {
             throw CLI::ValidationError("FROM..TO", "'" + text + "' is not two versions with '..' between them");
           }
           options.store.from = text.substr(0, dots);
           options.store.to = text.substr(dots + 2);
         },
         "An older version and one made from it, e.g. base..latest")
      ->required();
  app.add_option("--every", options.store.every, "A ladder instead: one net for every N versions")
      ->check(CLI::Range(uint64_t{2}, uint64_t{UINT32_MAX}).description(""))
      ->type_name("N");
  add_json(app, options);
  add_footer(app, "  weightfs squash runs/7/store base..latest --every 8\n", closing);
}

void declare_prune(CLI::App& root, Options& options, std::string_view closing) {
  auto& app = add_command(root, "prune", "Remove older versions; what remains keeps reading");
  add_store(app, options);
  auto* which = app.add_option_group("which", "");
  which->add_option("--keep", options.store.keep, "Keep the N newest versions (and the base)")
      ->check(CLI::Range(uint64_t{1}, uint64_t{UINT32_MAX}).description(""))
      ->type_name("N");
  which->add_option("--before", options.store.before, "Remove everything older than NAME")->type_name("NAME");
  which->require_option(1);
  add_json(app, options);
  add_footer(app, "  weightfs prune runs/7/store --keep 20\n", closing);
}

}  // namespace

void declare_store_commands(CLI::App& root, Options& options, std::string_view closing) {
  declare_init(root, options, closing);
  declare_commit(root, options, closing);
  declare_import(root, options, closing);
  declare_squash(root, options, closing);
  declare_prune(root, options, closing);
}

}  // namespace weightfs::cli
