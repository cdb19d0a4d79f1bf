# SPDX-License-Identifier: Apache-2.0
# The C++ interface: one shared library with nothing but include/weightfs visible, and what find_package(weightfs)
# needs.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

add_library(weightfs_api SHARED ${CMAKE_SOURCE_DIR}/src/api/store_api.cpp)
add_library(weightfs::weightfs ALIAS weightfs_api)
set_target_properties(weightfs_api PROPERTIES OUTPUT_NAME weightfs EXPORT_NAME weightfs
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
target_compile_features(weightfs_api PUBLIC cxx_std_20)
target_include_directories(weightfs_api PUBLIC
  $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_link_libraries(weightfs_api PRIVATE weightfs_store weightfs_flags)
# What the layers below define stays inside.
target_link_options(weightfs_api PRIVATE -Wl,--exclude-libs,ALL)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/weightfs)
install(TARGETS weightfs_api EXPORT weightfsTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/weightfs DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT weightfsTargets NAMESPACE weightfs:: DESTINATION ${package_dir})
configure_package_config_file(cmake/weightfsConfig.cmake.in ${CMAKE_BINARY_DIR}/weightfsConfig.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/weightfsConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/weightfsConfig.cmake ${CMAKE_BINARY_DIR}/weightfsConfigVersion.cmake
  DESTINATION ${package_dir})
