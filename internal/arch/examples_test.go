package arch_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every function and method that users call has an example that runs, which is one with an output; and so has every error, as a type
// instead of its methods.
func TestEveryEntryPointHasAnExample(t *testing.T) {
	for _, dir := range []string{"../..", "../../metaetcdtest"} {
		var library, tests []*ast.File
		fset := token.NewFileSet()
		paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
		require.NoError(t, err)
		for _, path := range paths {
			file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
			require.NoError(t, err)
			if strings.HasSuffix(path, "_test.go") {
				tests = append(tests, file)
			} else {
				library = append(library, file)
			}
		}
		running := map[string]bool{}
		for _, example := range doc.Examples(tests...) {
			running[example.Name] = example.Output != ""
		}
		entries := entryPoints(library)
		require.NotEmpty(t, entries)
		for _, entry := range entries {
			require.True(t, running[entry], "%s: there is no func Example%s with an output", dir, entry)
		}
	}
}

// entryPoints are the exported functions and methods of a package, and its errors, as the names of examples have them.
func entryPoints(files []*ast.File) (entries []string) {
	methods := map[string][]string{} // by exported type
	for _, file := range files {
		for _, decl := range file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			switch {
			case !ok || !fn.Name.IsExported():
			case fn.Recv == nil:
				entries = append(entries, fn.Name.Name)
			default:
				if name := receiver(fn); ast.IsExported(name) {
					methods[name] = append(methods[name], fn.Name.Name)
				}
			}
		}
	}
	for name, of := range methods {
		if slices.Contains(of, "Error") {
			entries = append(entries, name)
			continue
		}
		for _, method := range of {
			entries = append(entries, name+"_"+method)
		}
	}
	return entries
}

func receiver(fn *ast.FuncDecl) string {
	of := fn.Recv.List[0].Type
	if star, ok := of.(*ast.StarExpr); ok {
		of = star.X
	}
	if name, ok := of.(*ast.Ident); ok {
		return name.Name
	}
	return ""
}
