//go:build linux

package ringnet_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"example.com/ringnet/ring"
)

const module = "example.com/ringnet"

// house says what each package may import of ours, together with what lies in
// folders below it. The arrows go down only:
//
//	examples/  bench/  kernels/
//	    |
//	   net
//	    |
//	 bufring
//	    |
//	  ring
//	    |
//	internal/engine
//	    |
//	internal/sys
var house = map[string][]string{
	"internal/sys":    {},
	"internal/engine": {"internal/engine", "internal/sys"},
	"ring":            {"internal/engine", "internal/sys"},
	"bufring":         {"ring"},
	"net":             {"bufring", "ring", "internal/goroutine"},
	"examples":        {"examples", "net", "bufring", "ring"},
	"bench":           {"bench", "net", "bufring", "ring"},
	"interop":         {"net", "ring"},
	".":               {"ring"}, // this test
	"internal/leak":   {},
	// Which goroutine is it, and what does a switch to it touch? A few instructions in
	// assembly, for net alone.
	"internal/goroutine": {},
	"internal/forbid":    {"internal/sys"},
	"kernels":            {"ring"},
	"internal/planted":   {},
}

// forTests is what any package's tests may import, and nothing else.
var forTests = []string{"internal/leak", "internal/forbid"}

// simulation is the engine that only the tests of package net may import.
const simulation = "internal/engine/sim"

// floor is the part of the house that folder belongs to.
func floor(folder string) string {
	for f := folder; f != "."; f = path.Dir(f) {
		if _, ok := house[f]; ok {
			return f
		}
	}
	if folder == "." {
		return "."
	}
	return ""
}

// source is one Go file of this repository.
type source struct {
	folder, name string
	file         *ast.File
}

func (s source) path() string  { return path.Join(s.folder, s.name) }
func (s source) isTest() bool  { return strings.HasSuffix(s.name, "_test.go") }
func (s source) floor() string { return floor(s.folder) }

// bench and interop are modules of their own.
func (s source) library() bool { return s.floor() != "bench" && s.floor() != "interop" }
func (s source) imports(p string) (name string, ok bool) {
	for _, i := range s.file.Imports {
		if importPath(i) != p {
			continue
		}
		if i.Name != nil {
			return i.Name.Name, true
		}
		return path.Base(p), true
	}
	return "", false
}

func importPath(i *ast.ImportSpec) string {
	p, _ := strconv.Unquote(i.Path.Value)
	return p
}

// sources parses every Go file of the repository.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	fset := token.NewFileSet()
	err := fs.WalkDir(os.DirFS("."), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != "." && (name[0] == '.' || name[0] == '_' || name == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		file, err := parser.ParseFile(fset, p, nil, parser.ParseComments)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a temporary file of an editor, gone again
		}
		all = append(all, source{folder: path.Dir(p), name: name, file: file})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 40 {
		t.Fatalf("found only %d Go files: is this the root of the repository?", len(all))
	}
	return all
}

func TestImportsGoDownOnly(t *testing.T) {
	for _, s := range sources(t) {
		allowed, ok := house[s.floor()]
		if !ok {
			t.Errorf("%s lies in no part of the house: give its folder a place in house", s.path())
			continue
		}
		for _, i := range s.file.Imports {
			p := importPath(i)
			if p != module && !strings.HasPrefix(p, module+"/") {
				continue
			}
			to := strings.TrimPrefix(strings.TrimPrefix(p, module), "/")
			if to == s.folder && s.isTest() {
				continue // a test of the package from outside
			}
			if slices.Contains(forTests, to) && s.isTest() {
				continue
			}
			if to == simulation {
				if s.folder != "net" || !s.isTest() {
					t.Errorf("%s imports %s: only the tests of net may", s.path(), p)
				}
				continue
			}
			if !slices.Contains(allowed, floor(to)) || to == "" {
				t.Errorf("%s imports %s: %s may import only %v", s.path(), p, s.floor(), allowed)
			}
		}
	}
}

var rawCall = regexp.MustCompile(`^(Raw)?(Vfork)?Syscall`)

// Test files are no exception: what a test needs of this kind belongs to
// internal/sys as well, where it is looked at as carefully.
func TestUnsafeAndRawSystemCallsStayInSys(t *testing.T) {
	for _, s := range sources(t) {
		if s.floor() == "internal/sys" || !s.library() {
			continue
		}
		for _, p := range []string{"unsafe", "C"} {
			if _, ok := s.imports(p); ok {
				t.Errorf("%s imports %q", s.path(), p)
			}
		}
		for _, group := range s.file.Comments {
			for _, c := range group.List {
				if strings.HasPrefix(c.Text, "//go:linkname") {
					t.Errorf("%s: %s", s.path(), c.Text)
				}
			}
		}
		for _, p := range []string{"syscall", "golang.org/x/sys/unix"} {
			name, ok := s.imports(p)
			if !ok {
				continue
			}
			ast.Inspect(s.file, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok {
					if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == name && rawCall.MatchString(sel.Sel.Name) {
						t.Errorf("%s calls %s.%s", s.path(), p, sel.Sel.Name)
					}
				}
				return true
			})
		}
	}
}

// Our package net shadows std's, so a file that sees both must not confuse them.
func TestStdNetIsCalledStdnetBesideOurNet(t *testing.T) {
	for _, s := range sources(t) {
		_, ours := s.imports(module + "/net")
		if s.folder != "net" && !ours {
			continue
		}
		if name, ok := s.imports("net"); ok && name != "stdnet" {
			t.Errorf("%s imports std net as %q, not as stdnet", s.path(), name)
		}
	}
}

func TestFilesOfLinuxPackagesAreForLinuxOnly(t *testing.T) {
	elsewhere := build.Default
	elsewhere.GOOS = "darwin"
	here := build.Default
	here.GOOS, here.GOARCH = "linux", "arm64"
	for _, s := range sources(t) {
		if s.isTest() || !s.library() || s.folder == "." {
			continue
		}
		onLinux, err := here.MatchFile(s.folder, s.name)
		if err != nil {
			t.Fatal(err)
		}
		onDarwin, err := elsewhere.MatchFile(s.folder, s.name)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case s.name == "unsupported.go":
			if onLinux || !onDarwin {
				t.Errorf("%s is built on Linux: %v, on Darwin: %v", s.path(), onLinux, onDarwin)
			}
		case s.path() == "internal/sys/doc.go": // so that the package exists everywhere
		case onDarwin || !onLinux:
			t.Errorf("%s is built on Linux: %v, on Darwin: %v; it needs a line //go:build linux", s.path(), onLinux, onDarwin)
		}
	}
}

var kernelVersion = regexp.MustCompile(`Linux (\d+\.\d+)(?: or later|\+)`)

// A floor that is stated in two places drifts apart.
func TestReadmeNamesTheKernelFloor(t *testing.T) {
	for _, name := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"} {
		text, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		named := kernelVersion.FindAllSubmatch(text, -1)
		if name == "README.md" && len(named) == 0 {
			t.Errorf("%s does not say %q", name, "Linux "+ring.KernelFloor+" or later")
		}
		for _, n := range named {
			if string(n[1]) != ring.KernelFloor {
				t.Errorf("%s says %q, ring.KernelFloor is %s", name, n[0], ring.KernelFloor)
			}
		}
	}
}

// dependencies are the modules that a user of the library gets along with it.
var dependencies = []string{"golang.org/x/sys", "golang.org/x/sync"}

func TestLibraryDependsOnLittle(t *testing.T) {
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
		Replace, Exclude []any
	}
	out, err := goTool(t, nil, "mod", "edit", "-json", "go.mod")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	for _, r := range mod.Require {
		if !slices.Contains(dependencies, r.Path) && !r.Indirect {
			t.Errorf("go.mod requires %s: what only examples or bench need belongs to a module of their own", r.Path)
		}
	}
	if len(mod.Replace)+len(mod.Exclude) > 0 {
		t.Error("go.mod replaces or excludes modules, which its users would not see")
	}
	// What is indirect in go.mod must not reach a user's build but through these.
	out, err = goTool(t, nil, "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "./net", "./bufring", "./ring")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	built := strings.Fields(string(out))
	slices.Sort(built)
	for _, p := range slices.Compact(built) {
		if p != module && !slices.Contains(dependencies, p) {
			t.Errorf("a user of the library builds %s", p)
		}
	}
}

// There is no stub for other systems. A build there fails, and whatever package a
// user imports, the message must say what is missing.
func TestOtherSystemsGetAMessageThatSaysWhatIsMissing(t *testing.T) {
	for _, system := range []string{"darwin/arm64", "windows/amd64", "linux/386"} {
		goos, goarch, _ := strings.Cut(system, "/")
		for _, pkg := range []string{"./internal/sys", "./ring", "./bufring", "./net"} {
			out, err := goTool(t, []string{"GOOS=" + goos, "GOARCH=" + goarch}, "build", pkg)
			if err == nil {
				t.Errorf("%s builds on %s", pkg, system)
			} else if !bytes.Contains(out, []byte("ringnet_needs_linux_on_amd64_or_arm64")) {
				t.Errorf("%s on %s: the message does not say that it needs Linux:\n%s", pkg, system, out)
			}
		}
		if out, err := goTool(t, []string{"GOOS=" + goos, "GOARCH=" + goarch}, "build", "."); err != nil {
			t.Errorf("the module's root does not build on %s: %v\n%s", system, err, out)
		}
	}
}

func TestTheOtherArchitectureIsInOrder(t *testing.T) {
	other := "arm64"
	if runtime.GOARCH == other {
		other = "amd64"
	}
	if out, err := goTool(t, []string{"GOOS=linux", "GOARCH=" + other, "CGO_ENABLED=0"}, "vet", "./..."); err != nil {
		t.Errorf("vet for %s: %v\n%s", other, err, out)
	}
}

// goTool runs the go command on this module, without the network. The output is
// standard output, and the errors behind it when it fails.
func goTool(t *testing.T, env []string, args ...string) ([]byte, error) {
	t.Helper()
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skipf("no go command: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), tool, args...)
	cmd.Env = append(append(os.Environ(), "GOWORK=off", "GOPROXY=off"), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		out = append(out, stderr.Bytes()...)
	}
	return out, err
}
