package shop_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// file is one Go file of the project, tests and generated code left out. Its path is from the root, with slashes.
type file struct {
	path    string
	imports []string
	calls   []string // as written: pkg.Func or value.Method
	texts   []string // string literals
}

func (f file) in(rooms ...string) bool {
	return slices.ContainsFunc(rooms, func(r string) bool { return f.path == r || strings.HasPrefix(f.path, r+"/") })
}

var services = []string{"order", "menu", "pay", "make", "delivery"}

// project reads the whole project.
func project(t *testing.T) (files []file) {
	t.Helper()
	root := "../.."
	for _, module := range append([]string{"pkg", "migrations", "ops"}, services...) {
		err := filepath.WalkDir(filepath.Join(root, module), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, ".pb.go") {
				return err
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			f := file{path: filepath.ToSlash(name)}
			for _, i := range parsed.Imports {
				imported, _ := strconv.Unquote(i.Path.Value)
				f.imports = append(f.imports, imported)
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					if s, ok := n.Fun.(*ast.SelectorExpr); ok {
						on := ""
						switch x := s.X.(type) {
						case *ast.Ident:
							on = x.Name
						case *ast.SelectorExpr:
							on = x.Sel.Name
						}
						f.calls = append(f.calls, on+"."+s.Sel.Name)
					}
				case *ast.BasicLit:
					if n.Kind == token.STRING {
						text, _ := strconv.Unquote(n.Value)
						f.texts = append(f.texts, text)
					}
				}
				return true
			})
			files = append(files, f)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(files) < 40 {
		t.Fatalf("only %d files were found: the test looks in the wrong place", len(files))
	}
	return files
}

func TestServicesImportNoServicesAndThePlatformKnowsNone(t *testing.T) {
	for _, f := range project(t) {
		for _, i := range f.imports {
			for _, s := range services {
				if own := f.in(s); i == "hotchoc/"+s && !own && !f.in("ops") || own && strings.HasPrefix(i, "hotchoc/ops") {
					t.Errorf("%s imports %s", f.path, i)
				} else if i == "hotchoc/"+s && own && !f.in(s+"/cmd") {
					t.Errorf("%s imports its own service", f.path)
				}
			}
		}
	}
}

func TestOnlyOneRoomKnowsEachTechnology(t *testing.T) {
	for _, f := range project(t) {
		for _, i := range f.imports {
			switch {
			case strings.HasPrefix(i, "github.com/rabbitmq/amqp091-go") && !f.in("pkg/rabbit", "pkg/internal", "ops"):
				t.Errorf("%s imports the AMQP client; only pkg/rabbit does", f.path)
			case strings.HasPrefix(i, "github.com/labstack/echo") && !f.in("pkg/web") && filepath.Base(f.path) != "http.go":
				t.Errorf("%s imports echo; only pkg/web and http.go do", f.path)
			}
		}
	}
}

func TestDecisionsArePure(t *testing.T) {
	pure := []string{"order/order.go", "menu/menu.go", "pay/pay.go", "make/making.go", "make/stock.go", "delivery/delivery.go"}
	allowed := []string{"fmt", "maps", "slices", "strings", "time", "cmp", "errors", "sort",
		"google.golang.org/protobuf/proto", "google.golang.org/protobuf/types/known/timestamppb", "hotchoc/pkg/event", "hotchoc/pkg/flow"}
	found := 0
	for _, f := range project(t) {
		if !slices.Contains(pure, f.path) {
			continue
		}
		found++
		for _, i := range f.imports {
			if !slices.Contains(allowed, i) && !strings.HasPrefix(i, "hotchoc/pkg/contract/") {
				t.Errorf("%s imports %s: a decision has no I/O, clock or randomness", f.path, i)
			}
		}
		for _, c := range f.calls {
			if c == "time.Now" || c == "time.Since" || c == "time.After" || c == "event.NewID" {
				t.Errorf("%s calls %s: time and IDs come in as arguments", f.path, c)
			}
		}
	}
	if found != len(pure) {
		t.Errorf("%d of %d files with decisions were found", found, len(pure))
	}
}

func TestNothingReadsTheEnvironmentOutsideOfCommands(t *testing.T) {
	for _, f := range project(t) {
		if f.in("pkg", "migrations") || f.in(services...) && !strings.Contains(f.path, "/cmd/") {
			for _, c := range f.calls {
				if (c == "os.Getenv" || c == "os.LookupEnv" || c == "os.Environ") && !f.in("pkg/internal", "pkg/crash") {
					t.Errorf("%s calls %s", f.path, c)
				}
			}
		}
	}
}

func TestOnlyTheStoreWritesOnlyTheDoorDecidesOnlyTheRelayPublishes(t *testing.T) {
	for _, f := range project(t) {
		if f.in("ops", "migrations") {
			continue
		}
		for _, text := range f.texts {
			for _, verb := range []string{"INSERT INTO", "UPDATE ", "DELETE FROM"} {
				if strings.Contains(text, verb) && !f.in("pkg/store", "pkg/internal") {
					t.Errorf("%s writes to the database by itself: %.60q", f.path, text)
				}
			}
		}
		for _, c := range f.calls {
			switch {
			case strings.HasSuffix(c, ".Begin") && !f.in("pkg/flow/door.go", "pkg/store", "pkg/flow/sim"): // whose store stands before another
				t.Errorf("%s opens a transaction (%s); only the door does", f.path, c)
			case c == "publisher.Publish" && !f.in("pkg/relay"):
				t.Errorf("%s publishes (%s); only the relay does", f.path, c)
			}
		}
	}
}
