set -e
mkdir -p build out/pages
for scan in scans/*.raw; do
    name=$(basename $scan .raw)
    head -c 900000 $scan > build/$name.o
    cat build/$name.o build/$name.o > out/pages/$name.pgm
done
ls out/pages > out/index.txt
