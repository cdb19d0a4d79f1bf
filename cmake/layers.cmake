# One static library a layer; each links only the layers below it.  scripts/check_layers reads the
# #include lines and enforces the same order.
function(weightfs_layer name)
  cmake_parse_arguments(ARG "" "" "BELOW;PRIVATE" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "/main\\.cpp$")
  if(NOT sources)
    file(WRITE ${CMAKE_BINARY_DIR}/empty.cpp "")
    set(sources ${CMAKE_BINARY_DIR}/empty.cpp)
  endif()
  add_library(weightfs_${name} STATIC ${sources})
  target_include_directories(weightfs_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
  list(TRANSFORM ARG_BELOW PREPEND weightfs_)
  target_link_libraries(weightfs_${name} PUBLIC ${ARG_BELOW} PRIVATE weightfs_flags ${ARG_PRIVATE})
endfunction()

weightfs_layer(common PRIVATE PkgConfig::XXHASH PkgConfig::ZLIB spdlog::spdlog ${CMAKE_DL_LIBS})
target_link_libraries(weightfs_common PUBLIC fmt::fmt Threads::Threads)
target_compile_definitions(weightfs_common PUBLIC WEIGHTFS_VERSION="${PROJECT_VERSION}")
weightfs_layer(io BELOW common)
weightfs_layer(codec BELOW io common PRIVATE PkgConfig::ZSTD)
weightfs_layer(model BELOW io common PRIVATE nlohmann_json::nlohmann_json)
weightfs_layer(delta BELOW model codec io common PRIVATE nlohmann_json::nlohmann_json)
weightfs_layer(chain BELOW delta model io common)
weightfs_layer(engine BELOW chain delta model codec io common PRIVATE TBB::tbb)
weightfs_layer(store BELOW engine chain delta model codec io common)
weightfs_layer(vfs BELOW engine chain io common)
weightfs_layer(attach BELOW common)
weightfs_layer(fuse BELOW vfs attach common PRIVATE PkgConfig::FUSE3)
weightfs_layer(cli BELOW fuse attach vfs store engine chain delta model codec io common
  PRIVATE CLI11::CLI11 nlohmann_json::nlohmann_json PkgConfig::MICROHTTPD)

add_executable(weightfs src/cli/main.cpp)
target_link_libraries(weightfs PRIVATE weightfs_cli weightfs_flags)

# Only the kernel files are compiled for newer processors; a dispatch table picks at run time.
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/codec/kernels_avx2.cpp
  ${CMAKE_SOURCE_DIR}/src/codec/kernels_block_avx2.cpp PROPERTIES
  COMPILE_OPTIONS "-mavx2;-mbmi;-mbmi2;-mlzcnt;-mpopcnt")
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/codec/kernels_avx512.cpp
  ${CMAKE_SOURCE_DIR}/src/codec/kernels_block_avx512.cpp PROPERTIES
  COMPILE_OPTIONS "-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mavx512vbmi;-mavx512vbmi2;-mbmi;-mbmi2;-mlzcnt;-mpopcnt")
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/common/xxh3_avx2.cpp PROPERTIES COMPILE_OPTIONS "-mavx2")
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/common/xxh3_avx512.cpp PROPERTIES COMPILE_OPTIONS "-mavx512f")
