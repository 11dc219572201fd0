package agent

import (
	"reflect"
	"testing"

	"github.com/kvd-io/kvd/pkg/workload"
)

// Whatever a workload may say counts: a field that is added to it and not compared would never be noticed.
func TestEveryFieldOfAWorkloadIsCompared(t *testing.T) {
	whole := reflect.TypeFor[workload.Workload]()
	for i := range whole.NumField() {
		var changed workload.Workload
		field := reflect.ValueOf(&changed).Elem().Field(i)
		switch field.Kind() {
		case reflect.String:
			field.SetString("x")
		case reflect.Int:
			field.SetInt(1)
		case reflect.Bool:
			field.SetBool(true)
		case reflect.Map:
			field.Set(reflect.ValueOf(map[string]string{"x": "y"}))
		case reflect.Slice:
			field.Set(reflect.MakeSlice(field.Type(), 1, 1))
		default:
			t.Fatalf("%s is of a kind that this test does not know", whole.Field(i).Name)
		}
		if same(&workload.Workload{}, &changed) {
			t.Errorf("a workload with another %s is taken for the same", whole.Field(i).Name)
		}
		if !same(&changed, &changed) {
			t.Errorf("a workload with a %s is not the same as itself", whole.Field(i).Name)
		}
	}
}
