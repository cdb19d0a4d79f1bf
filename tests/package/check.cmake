# SPDX-License-Identifier: Apache-2.0
# Installs the build tree BUILD below FOLDER, builds the example in EXAMPLE against that alone, and runs it.
function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(REMOVE_RECURSE ${FOLDER})
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${FOLDER}/prefix)
foreach(file sbin/mount.weightfs sbin/mount.fuse.weightfs share/man/man8/mount.weightfs.8
    lib/systemd/system/weightfs@.service)
  if(NOT EXISTS ${FOLDER}/prefix/${file})
    message(FATAL_ERROR "${file} was not installed")
  endif()
endforeach()
run(${FOLDER}/prefix/sbin/mount.fuse.weightfs --version)
run(${CMAKE_COMMAND} -S ${EXAMPLE} -B ${FOLDER}/build -DCMAKE_PREFIX_PATH=${FOLDER}/prefix
  -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_BUILD_TYPE=Release)
run(${CMAKE_COMMAND} --build ${FOLDER}/build)
run(${FOLDER}/build/commit_from_memory ${FOLDER}/run)
if(NOT EXISTS ${FOLDER}/run/store/versions/v000003/manifest.json)
  message(FATAL_ERROR "the example did not make its third version")
endif()
file(REMOVE_RECURSE ${FOLDER})
