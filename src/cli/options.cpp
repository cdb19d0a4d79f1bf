// SPDX-License-Identifier: Apache-2.0
//
// The command line: what exists, how it is spelt, what -h says.  One function a command declares its
// arguments; CLI11 does the rest.  Nothing here looks at a file, so that wrong usage is told before any
// work is done, and so that every line of it can be tested without one.
#include "cli/options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/mount_options.h"
#include "cli/store_options.h"
#include "common/text.h"

namespace weightfs::cli {
namespace {

constexpr int kUsageStatus = 2;

constexpr const char* kMountGroup = "Mounts";
constexpr const char* kSourceGroup = "Sources";
constexpr const char* kExitStatus =
    "Exit status: 0 done, 1 something is wrong with what was looked at, 2 wrong usage, 3 could not be done.";

/// Help in the layout of CLI11, with the placeholders in capitals and without types behind every name.
class HelpFormatter final : public CLI::Formatter {
 public:
  HelpFormatter() { column_width(28); }

  std::string make_option_opts(const CLI::Option* option) const override {
    if (option->get_positional() || option->get_type_name().empty()) return {};
    return " " + option->get_type_name();
  }
  std::string make_option_name(const CLI::Option* option, bool is_positional) const override {
    return CLI::detail::find_and_replace(CLI::Formatter::make_option_name(option, is_positional), ",", ", ");
  }
  std::string make_usage(const CLI::App* app, std::string name) const override {
    // Sub-commands are introduced by their description already.
    return CLI::Formatter::make_usage(app, app->get_parent() != nullptr ? "weightfs " + app->get_name() : name);
  }
  std::string make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const override {
    // CLI11 parts groups by two empty lines in some places and by one in others.
    return CLI::detail::find_and_replace(CLI::Formatter::make_help(app, name, mode), "\n\n\n", "\n\n");
  }
};

std::string example(std::string_view lines) { return fmt::format("Example:\n{}\n{}", lines, kExitStatus); }

void add_base(CLI::App& app, std::string& base) {
  app.add_option("--base", base, "Folder of the base model (default: look for it in SOURCE)")
      ->type_name("DIR")
      ->group("Source");
}

void add_verify(CLI::App& app, bool& verify) {
  app.add_option_function<std::string>(
         "--verify", [&verify](const std::string& mode) { verify = mode == "tensor"; },
         "tensor (default): check the published digest when a tensor is\nfirst read; off: check the structure only")
      ->check(CLI::IsMember({"tensor", "off"}).description(""))
      ->type_name("tensor|off")
      ->group("Source");
}

void add_json(CLI::App& app, bool& json) { app.add_flag("--json", json, "Print exact data as JSON; see weightfs(1)"); }

CLI::Option* add_positional(CLI::App& app, const std::string& name, std::string& value, const std::string& what) {
  return app.add_option(name, value, what)->required();
}

void declare_mount(CLI::App& root, Options& options) {
  auto& app = *root.add_subcommand("mount", "Mount a base model and its deltas as ordinary folders");
  app.group(kMountGroup);
  MountOptions& mount = options.mount;
  add_positional(app, "SOURCE", mount.source, "Folder of published deltas");
  add_positional(app, "MOUNTPOINT", mount.mount_point, "Empty folder to mount on");
  add_base(app, mount.base);
  add_verify(app, mount.verify);
  add_mount_options(app, mount);
  app.footer(
      example("  weightfs mount --base models/Qwen3-0.6B runs/7/bucket /mnt/qwen\n"
              "  ls /mnt/qwen             # base  latest  step_000001  step_000002 ...\n"
              "  weightfs mount --follow --keep 8 runs/7/bucket /mnt/live\n"));
}

void declare_umount(CLI::App& root, Options& options) {
  auto& app = *root.add_subcommand("umount", "Unmount; also cleans up after a daemon that is gone");
  app.group(kMountGroup);
  add_positional(app, "MOUNTPOINT", options.mount_point, "Where it is mounted");
  app.add_flag("--force", options.force, "Take it from whoever uses it; they get errors");
  app.footer(example("  weightfs umount /mnt/qwen\n"));
}

void declare_restart(CLI::App& root, Options& options) {
  auto& app = *root.add_subcommand("restart", "Let the weightfs now on disk serve a mount; readers go on");
  app.group(kMountGroup);
  add_positional(app, "MOUNTPOINT", options.mount_point, "Where mount.weightfs has mounted it");
  app.footer(example("  weightfs restart /mnt/qwen\n"));
}

void declare_status(CLI::App& root, Options& options) {
  auto& app = *root.add_subcommand("status", "Show what a mount serves, its counters and its memory");
  app.group(kMountGroup);
  add_positional(app, "MOUNTPOINT", options.mount_point, "Where it is mounted");
  add_json(app, options.json);
  app.footer(
      example("  weightfs status /mnt/qwen\n"
              "  weightfs status --json /mnt/qwen | jq .memory.used\n"));
}

void declare_warm(CLI::App& root, Options& options) {
  auto& app = *root.add_subcommand("warm", "Make a mounted version ready to be read at full speed");
  app.group(kMountGroup);
  add_positional(app, "MOUNTPOINT", options.mount_point, "Where it is mounted");
  add_positional(app, "VERSION", options.versions[0], "Name of a version, or 'latest'");
  app.add_option(
         "--to", options.to,
         "memory (default): decode it into memory of the mount, within its\n--memory; page-cache: read it through "
         "the mount once, so that\nthe kernel keeps it as far as it likes")
      ->check(CLI::IsMember({"memory", "page-cache"}).description(""))
      ->type_name("memory|page-cache");
  app.add_flag("--drop", options.drop, "Give the memory back instead; stops whoever is warming the version");
  add_json(app, options.json);
  app.footer(
      example("  weightfs warm /mnt/qwen latest\n"
              "  weightfs warm --to page-cache /mnt/qwen step_000042\n"));
}

void declare_log(CLI::App& root, Options& options) {
  auto& app = *root.add_subcommand("log", "List the versions of a source or a mount, and what is wrong with them");
  app.group(kSourceGroup);
  add_positional(app, "SOURCE|MOUNTPOINT", options.source, "Folder of published deltas, or where one is mounted");
  add_base(app, options.base);
  add_verify(app, options.verify);
  add_json(app, options.json);
  app.footer(
      example("  weightfs log --base models/Qwen3-0.6B runs/7/bucket\n"
              "  weightfs log --json /mnt/qwen | jq '.[] | select(.state == \"refused\")'\n"));
}

void declare_show(CLI::App& root, Options& options) {
  auto& app = *root.add_subcommand("show", "Show the tensors of a version and what changed in them");
  app.group(kSourceGroup);
  add_positional(app, "SOURCE|MOUNTPOINT", options.source, "Folder of published deltas, or where one is mounted");
  add_positional(app, "VERSION", options.versions[0], "Name of a version, or 'latest'");
  add_base(app, options.base);
  add_verify(app, options.verify);
  auto* all = app.add_flag("-a,--all", options.all, "List unchanged tensors too");
  // A function, so that an empty name is one that does not exist and not no option at all.
  app.add_option_function<std::string>(
         "--since", [&options](const std::string& name) { options.since = name; },
         "List instead what may differ from version OTHER, older or newer")
      ->excludes(all)
      ->type_name("OTHER");
  add_json(app, options.json);
  app.footer(
      example("  weightfs show --base models/Qwen3-0.6B runs/7/bucket latest\n"
              "  weightfs show /mnt/qwen step_000042\n"
              "  weightfs show /mnt/qwen latest --since step_000042\n"));
}

void declare_verify(CLI::App& root, Options& options, std::vector<std::string>& named) {
  auto& app = *root.add_subcommand("verify", "Decode versions completely and check every digest they publish");
  app.group(kSourceGroup);
  add_positional(app, "SOURCE", options.source, "Folder of published deltas");
  app.add_option("VERSION", named, "Names of versions, or 'latest' (default: all of them)");
  add_base(app, options.base);
  add_json(app, options.json);
  app.footer(
      example("  weightfs verify --base models/Qwen3-0.6B runs/7/updates\n"
              "  weightfs verify runs/7 weight_v000007 || echo 'do not serve it'\n"));
}

void declare_export(CLI::App& root, Options& options) {
  auto& app = *root.add_subcommand("export", "Write a version out as real files");
  app.group(kSourceGroup);
  add_positional(app, "SOURCE", options.source, "Folder of published deltas");
  add_positional(app, "VERSION", options.versions[0], "Name of a version, or 'latest'");
  add_positional(app, "DIR", options.directory, "Folder to create; an existing one is never touched");
  add_base(app, options.base);
  add_verify(app, options.verify);
  app.add_option("--as", options.as,
                 "safetensors (default): the version's own files; weight_v, trl:\n"
                 "a chain of deltas that leads from the base to VERSION")
      ->check(CLI::IsMember({"safetensors", "weight_v", "trl"}).description(""))
      ->type_name("FORMAT");
  app.add_option("--from", options.from, "Let the chain start at this version instead of the base")->type_name("NAME");
  app.footer(
      example("  weightfs export --base models/Qwen3-0.6B runs/7/bucket step_000042 /data/qwen-42\n"
              "  weightfs export --as weight_v runs/7/store latest /data/updates\n"));
}

void declare_diff(CLI::App& root, Options& options) {
  auto& app = *root.add_subcommand("diff", "Compare two checkpoints tensor by tensor");
  app.group(kSourceGroup);
  add_positional(app, "OLD", options.old_checkpoint, "A checkpoint folder, or SOURCE@VERSION");
  add_positional(app, "NEW", options.new_checkpoint, "The same");
  add_base(app, options.base);
  add_verify(app, options.verify);
  add_json(app, options.json);
  app.footer(
      "Example:\n"
      "  weightfs diff checkpoints/100 checkpoints/200\n"
      "  weightfs diff --base models/Qwen3-0.6B runs/7@weight_v000001 runs/7@latest\n\n"
      "Exit status: 0 equal, 1 different, 2 wrong usage, 3 could not be done.");
}

const std::vector<std::pair<std::string, Command>>& command_names() {
  static const std::vector<std::pair<std::string, Command>> kNames = {
      {"mount", Command::kMount},   {"umount", Command::kUmount}, {"restart", Command::kRestart},
      {"status", Command::kStatus}, {"warm", Command::kWarm},     {"log", Command::kLog},
      {"show", Command::kShow},     {"verify", Command::kVerify}, {"export", Command::kExport},
      {"init", Command::kInit},     {"commit", Command::kCommit}, {"import", Command::kImport},
      {"squash", Command::kSquash}, {"prune", Command::kPrune},   {"diff", Command::kDiff},
  };
  return kNames;
}

std::unique_ptr<CLI::App> declare(Options& options, std::vector<std::string>& verify_named) {
  auto app = std::make_unique<CLI::App>("weightfs mounts a base model and its deltas as ordinary safetensors folders.",
                                        "weightfs");
  app->formatter(std::make_shared<HelpFormatter>());
  app->option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::Throw);
  app->get_formatter()->label("Positionals", "Arguments");
  app->get_formatter()->label("SUBCOMMAND", "COMMAND");
  app->set_version_flag("--version", std::string("weightfs ") + WEIGHTFS_VERSION, "Print the version and exit");
  app->set_help_flag("-h,--help", "Print this help and exit");
  app->require_subcommand(0, 1);
  app->footer("'weightfs COMMAND -h' explains a command; weightfs(1) is the manual.");
  options.versions.resize(1);
  declare_mount(*app, options);
  declare_umount(*app, options);
  declare_restart(*app, options);
  declare_status(*app, options);
  declare_warm(*app, options);
  declare_log(*app, options);
  declare_show(*app, options);
  declare_verify(*app, options, verify_named);
  declare_export(*app, options);
  declare_diff(*app, options);
  declare_store_commands(*app, options, kExitStatus);
  return app;
}

ParseResult usage_error(const std::string& command, const std::string& message) {
  const std::string who = command.empty() ? "weightfs" : "weightfs " + command;
  ParseResult result;
  result.exit_status = kUsageStatus;
  result.errors = fmt::format("{}: {}\nTry '{} -h'.\n", who, message, who);
  return result;
}

ParseResult printed(std::string text) {
  ParseResult result;
  result.output = std::move(text);
  return result;
}

/// The first word when it is neither an option nor a command: CLI11 would only call it unexpected.
std::optional<std::string> unknown_command(int argc, const char* const* argv) {
  if (argc < 2 || argv[1][0] == '-') return std::nullopt;
  for (const auto& [name, command] : command_names()) {
    if (name == argv[1]) return std::nullopt;
  }
  return argv[1];
}

std::string chosen_command(const CLI::App& app) {
  const auto chosen = app.get_subcommands();
  return chosen.empty() ? std::string() : chosen.front()->get_name();
}

}  // namespace

ParseResult parse_options(int argc, const char* const* argv) {
  if (const auto word = unknown_command(argc, argv)) {
    return usage_error("", fmt::format("there is no command {}", quote(*word)));
  }
  Options options;
  std::vector<std::string> verify_named;
  const auto app = declare(options, verify_named);
  try {
    app->parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    const auto chosen = app->get_subcommands();
    return printed((chosen.empty() ? app.get() : chosen.front())->help());
  } catch (const CLI::CallForVersion& version) {
    return printed(std::string(version.what()) + "\n");
  } catch (const CLI::ParseError& error) {
    return usage_error(chosen_command(*app), error.what());
  }
  const std::string chosen = chosen_command(*app);
  if (chosen.empty()) return printed(app->help());
  for (const auto& [name, command] : command_names()) {
    if (name == chosen) options.command = command;
  }
  if (!options.from.empty() && options.as == "safetensors") {
    return usage_error(chosen, "--from needs --as weight_v or --as trl: a folder of safetensors has no start");
  }
  if (options.command == Command::kVerify) options.versions = std::move(verify_named);
  ParseResult result;
  result.options = std::move(options);
  return result;
}

}  // namespace weightfs::cli
