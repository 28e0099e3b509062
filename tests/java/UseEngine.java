import javax.script.ScriptEngine;
import javax.script.ScriptEngineManager;

/** Formats a JSON text as SPICE does, through whatever engine is called JavaScript. */
public class UseEngine {
    public static void main(String[] arguments) throws Exception {
        ScriptEngine engine = new ScriptEngineManager().getEngineByName("JavaScript");
        if (arguments.length > 0) {
            engine.put("jsonString", arguments[0]);
        }
        engine.eval("result = JSON.stringify(JSON.parse(jsonString), null, 2)");
        System.out.println(engine.getFactory().getNames() + " " + engine.get("result"));
    }
}
