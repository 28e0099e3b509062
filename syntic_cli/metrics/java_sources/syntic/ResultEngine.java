package syntic;

import java.io.Reader;
import javax.script.AbstractScriptEngine;
import javax.script.Bindings;
import javax.script.ScriptContext;
import javax.script.ScriptEngineFactory;
import javax.script.ScriptException;
import javax.script.SimpleBindings;

/**
 * Does the one thing that SPICE asks of JavaScript: to format the JSON text in `jsonString` into
 * `result`. The text is handed on as it is, since white space in it means nothing.
 */
public final class ResultEngine extends AbstractScriptEngine {
    private final ScriptEngineFactory factory;

    ResultEngine(ScriptEngineFactory factory) {
        this.factory = factory;
    }

    @Override
    public Object eval(String script, ScriptContext context) throws ScriptException {
        Object text = context.getAttribute("jsonString");
        if (text == null) {
            throw new ScriptException("no jsonString to hand on; no other script is understood");
        }
        context.setAttribute("result", text, ScriptContext.ENGINE_SCOPE);
        return text;
    }

    @Override
    public Object eval(Reader script, ScriptContext context) throws ScriptException {
        return eval("", context);
    }

    @Override
    public Bindings createBindings() {
        return new SimpleBindings();
    }

    @Override
    public ScriptEngineFactory getFactory() {
        return factory;
    }
}
