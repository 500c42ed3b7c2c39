//go:build linux && (amd64 || arm64)

package sys

import (
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"regexp"
	"strings"
	"testing"
)

const kernelHeader = "/usr/include/linux/io_uring.h"

// What we typed is compared with what the kernel's header says, as far as the
// installed header goes: an older one lacks the newest names.
func TestConstantsAreThoseOfTheKernelsHeader(t *testing.T) {
	header, err := os.ReadFile(kernelHeader)
	if err != nil {
		t.Skipf("no kernel headers installed: %v", err)
	}
	theirs := headerConstants(string(header))
	ours := ourConstants(t)
	compared := 0
	for name, value := range ours {
		want, ok := theirs[name]
		if !ok {
			continue
		}
		compared++
		if !constant.Compare(value, token.EQL, want) {
			t.Errorf("%s is %v here, %v in %s", name, value, want, kernelHeader)
		}
	}
	t.Logf("%d of %d constants are in %s", compared, len(ours), kernelHeader)
	// 5.19, the oldest header one meets with io_uring networking, has far more.
	if compared < 60 {
		t.Errorf("found only %d of our %d constants: the header was not understood", compared, len(ours))
	}
}

// ourConstants evaluates the constants of abi.go with the kernel's names.
func ourConstants(t *testing.T) map[string]constant.Value {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "abi.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Its one import is not needed for constants, so errors are of no interest.
	conf := types.Config{Error: func(error) {}}
	pkg, _ := conf.Check("sys", fset, []*ast.File{file}, nil)
	values := map[string]constant.Value{}
	for _, name := range pkg.Scope().Names() {
		if c, ok := pkg.Scope().Lookup(name).(*types.Const); ok && strings.HasPrefix(name, "IO") {
			values[name] = c.Val()
		}
	}
	return values
}

var (
	cComment = regexp.MustCompile(`(?s)/\*.*?\*/|//[^\n]*`)
	cDefine  = regexp.MustCompile(`(?m)^\s*#\s*define\s+(IO\w+)[ \t]+(.+)$`)
	cEnum    = regexp.MustCompile(`(?s)\benum\b[^{;]*\{(.*?)\}`)
	cSuffix  = regexp.MustCompile(`\b(0[xX][0-9a-fA-F]+|[0-9]+)[uUlL]+\b`)
	cInvert  = regexp.MustCompile(`~0[uU]\b`)
)

// headerConstants reads the enumerators and the macros of a C header that have a
// constant integer as their value.
func headerConstants(header string) map[string]constant.Value {
	header = cComment.ReplaceAllString(header, "")
	values := map[string]constant.Value{}
	scope := types.NewPackage("header", "header")
	define := func(name, expr string) constant.Value {
		expr = cInvert.ReplaceAllString(strings.TrimSpace(expr), "0xffffffff")
		v, err := types.Eval(token.NewFileSet(), scope, token.NoPos, cSuffix.ReplaceAllString(expr, "$1"))
		if err != nil || v.Value == nil || v.Value.Kind() != constant.Int {
			return nil
		}
		values[name] = v.Value
		scope.Scope().Insert(types.NewConst(token.NoPos, scope, name, types.Typ[types.UntypedInt], v.Value))
		return v.Value
	}
	for _, enum := range cEnum.FindAllStringSubmatch(header, -1) {
		next := constant.MakeInt64(0)
		for _, item := range strings.Split(enum[1], ",") {
			name, expr, explicit := strings.Cut(item, "=")
			if !explicit {
				expr = next.ExactString()
			}
			if name = strings.TrimSpace(name); name == "" {
				continue
			}
			if v := define(name, expr); v != nil {
				next = constant.BinaryOp(v, token.ADD, constant.MakeInt64(1))
			}
		}
	}
	for _, d := range cDefine.FindAllStringSubmatch(header, -1) {
		define(d[1], d[2])
	}
	return values
}
