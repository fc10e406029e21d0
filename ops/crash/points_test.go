package crash_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// inSource finds the crash points of the whole checkout: the first argument of each call of crash.At, or of a function
// crashAt that passes it on.
func inSource(t *testing.T) map[string]token.Position {
	t.Helper()
	points := map[string]token.Position{}
	files := token.NewFileSet()
	look := func(n ast.Node) bool {
		if f, ok := n.(*ast.FuncDecl); ok && f.Name.Name == "crashAt" {
			return false
		}
		call, ok := n.(*ast.CallExpr)
		if !ok || !isPoint(call.Fun) {
			return true
		}
		at := files.Position(call.Pos())
		name, ok := call.Args[0].(*ast.BasicLit)
		if !ok || name.Kind != token.STRING {
			t.Errorf("%s: a crash point must be named by a literal, or this test cannot find it", at)
			return true
		}
		point, _ := strconv.Unquote(name.Value)
		points[point] = at
		return true
	}
	err := filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := entry.Name(); entry.IsDir() && (name == "bin" || strings.HasPrefix(name, ".") && name != "." && name != "..") {
			return fs.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(files, path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, look)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return points
}

func isPoint(f ast.Expr) bool {
	switch f := f.(type) {
	case *ast.Ident:
		return f.Name == "crashAt"
	case *ast.SelectorExpr:
		pkg, ok := f.X.(*ast.Ident)
		return ok && pkg.Name == "crash" && f.Sel.Name == "At"
	}
	return false
}

func TestEveryCrashPointHasItsRowInTheMatrix(t *testing.T) {
	source, rows := inSource(t), map[string]bool{}
	for _, k := range matrix() {
		for _, p := range k.points() {
			rows[p.at] = true
		}
	}
	for _, point := range slices.Sorted(maps.Keys(source)) {
		if !rows[point] {
			t.Errorf("%s: no process of the matrix dies at %s", source[point], point)
		}
	}
	for _, point := range slices.Sorted(maps.Keys(rows)) {
		if _, there := source[point]; !there {
			t.Errorf("the matrix waits for a process to die at %s, which is nowhere in the source", point)
		}
	}
}
