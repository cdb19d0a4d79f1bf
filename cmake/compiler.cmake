# Warnings, hardening and sanitizers for our own targets; third-party headers stay out of it.
add_library(weightfs_flags INTERFACE)
target_compile_options(weightfs_flags INTERFACE
  -Wall -Wextra -Wconversion -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Werror
  -fstack-protector-strong)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  # TRY() is a statement expression; clang flags it although __extension__ marks it.
  target_compile_options(weightfs_flags INTERFACE -Wno-gnu-statement-expression)
elseif(CMAKE_UNITY_BUILD)
  # A member of a file-local type is fine in a class of the same file; GCC takes what a unity source includes for headers.
  target_compile_options(weightfs_flags INTERFACE -Wno-subobject-linkage)
endif()
if(NOT CMAKE_BUILD_TYPE STREQUAL "Debug" AND NOT WEIGHTFS_SANITIZE)
  target_compile_definitions(weightfs_flags INTERFACE _GLIBCXX_ASSERTIONS _FORTIFY_SOURCE=2)
endif()
if(WEIGHTFS_SANITIZE)
  target_compile_options(weightfs_flags INTERFACE -fsanitize=${WEIGHTFS_SANITIZE} -fno-omit-frame-pointer
    -fno-sanitize-recover=all)
  target_link_options(weightfs_flags INTERFACE -fsanitize=${WEIGHTFS_SANITIZE})
  if(WEIGHTFS_SANITIZE MATCHES "undefined")
    # This check opens a pipe to look at memory; a process without free descriptors, which a test of ours
    # makes on purpose, then hears that every object is invalid.
    target_compile_options(weightfs_flags INTERFACE -fno-sanitize=vptr)
  endif()
endif()
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
